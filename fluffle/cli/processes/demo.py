"""`fluffle demo`: a private RabbitMQ, a coordinator and three LLMs that work on text files, then the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fluffle.cli.exit_codes import OK, TASK_FAILED

if TYPE_CHECKING:
    from fluffle.cli.processes.demo_screen import Screen
    from fluffle.local.demo_scenario import Scene

MAX_FILES = 8  # taken from the current folder
_MIN_BYTES = 400  # of such a file


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", default="demo", show_default=True, help="The model of the LLMs, such as ollama:llama3.2.")
@click.option("--base-url", metavar="URL", help="The URL of an OpenAI-compatible server.")
@click.option("--exec", "command", metavar="CMD", help="A command line agent instead of a model, such as 'llm -m …'.")
def demo(*, files: tuple[Path, ...], model: str, base_url: str | None, command: str | None) -> int:
    """Run a complete example on text files.

    Starts a private RabbitMQ node, a coordinator and three LLMs. Submits one task for each of FILES (text or Markdown;
    by default those of the current folder), one that merges the answers and one that reviews the result. Then prints
    answers, timeline and report. Needs no API key and no network: the model `demo` is an extractive summariser. At the
    end it stops everything and removes its data. The exit code is 0 only if every task was completed.
    """
    import asyncio

    from fluffle.cli.processes.demo_screen import Screen
    from fluffle.local.demo_programs import demo_node
    from fluffle.local.demo_scenario import plan

    scenes = plan(files or _texts_here())
    options = ["--exec", command] if command else ["--model", model, *(["--base-url", base_url] if base_url else [])]
    with demo_node(click.echo) as (url, state_dir):
        return asyncio.run(_run(url, state_dir, options, scenes, Screen(scenes)))


async def _run(url: str, state_dir: Path, llm_options: Sequence[str], scenes: "list[Scene]", screen: "Screen") -> int:
    import asyncio

    from fluffle.cli.processes.demo_screen import print_ending
    from fluffle.client.client import Client
    from fluffle.client.requests import open_link
    from fluffle.local.demo_programs import demo_programs
    from fluffle.local.demo_scenario import CAST, Performance

    async with demo_programs(url, state_dir, llm_options) as first_end:
        click.echo(f"Started the coordinator and the LLMs {', '.join(CAST)}.")
        async with open_link(url, name="fluffle demo") as link:
            with screen:
                playing = asyncio.create_task(Performance(link, scenes, screen.changed).play())
                ended, _ = await asyncio.wait([playing, first_end], return_when=asyncio.FIRST_COMPLETED)
                if playing not in ended:
                    playing.cancel()
                    await first_end
                playing.result()
        async with Client(url) as client:
            report = await client.report("summary")
        print_ending(scenes, report)
    return OK if all(scene.completed for scene in scenes) else TASK_FAILED


def _texts_here() -> list[Path]:
    here = Path.cwd()
    found = [*sorted(here.glob("*.md")), *sorted(here.glob("docs/*.md"))] or sorted(here.glob("*.txt"))
    texts = [path for path in found if path.stat().st_size > _MIN_BYTES][:MAX_FILES]
    if not texts:
        raise click.UsageError("no text files in this folder: name some, `fluffle demo FILE…`")
    return texts
