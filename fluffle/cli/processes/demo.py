"""`fluffle demo`: a private RabbitMQ, a coordinator and three LLMs at work on text files, then the books."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.errors import BrokerBlocked, FluffleError

if TYPE_CHECKING:
    from fluffle.cli.processes.demo_screen import Screen
    from fluffle.local.demo_scenario import Scene

MOST_FILES = 8
STOP_WITHIN = 15.0  # seconds

Children = dict[str, tuple["subprocess.Popen[bytes]", Path]]  # by name: the process and its log


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", default="demo", show_default=True, help="What the LLMs run, such as ollama:llama3.2.")
@click.option("--base-url", metavar="URL", help="Where an OpenAI-compatible server answers.")
@click.option("--exec", "command", metavar="CMD", help="A command line agent in place of a model, such as 'llm -m …'.")
def demo(*, files: tuple[Path, ...], model: str, base_url: str | None, command: str | None) -> int:
    """Show all of it in one go, on real text.

    Starts a private RabbitMQ node, a coordinator and three LLMs, gives them a task for each of FILES (text or Markdown;
    by default those of the current folder), one that merges the answers and one that reviews the whole, and prints
    answers, timeline and report. Needs no key and no network: the model `demo` is an extractive summariser. Stops
    everything and removes its data at the end. The exit code is 0 only if every task was completed.
    """
    import asyncio

    from fluffle.cli.processes.demo_screen import Screen
    from fluffle.local.demo_scenario import plan

    scenes = plan(files or _texts_here())
    way = ["--exec", command] if command else ["--model", model, *(["--base-url", base_url] if base_url else [])]
    with ExitStack() as stage:
        url, state_dir = stage.enter_context(_broker())
        children = stage.enter_context(_workforce(url, state_dir, way))
        return asyncio.run(_play(url, scenes, Screen(scenes), children))


async def _play(url: str, scenes: "list[Scene]", screen: "Screen", children: "Children") -> int:
    import asyncio

    from fluffle.cli.processes.demo_screen import print_ending
    from fluffle.client.client import Client
    from fluffle.client.requests import open_link
    from fluffle.local.demo_scenario import Performance

    async with open_link(url, name="fluffle demo") as link:
        with screen:
            playing = asyncio.create_task(Performance(link, scenes, screen.changed).play())
            while not (await asyncio.wait([playing], timeout=0.5))[0]:
                _must_live(children)
            playing.result()
    async with Client(url) as client:
        report = await client.report("summary")
    print_ending(scenes, report)
    return 0 if all(scene.completed for scene in scenes) else 3


def _texts_here() -> list[Path]:
    here = Path.cwd()
    found = [*sorted(here.glob("*.md")), *sorted(here.glob("docs/*.md"))] or sorted(here.glob("*.txt"))
    texts = [path for path in found if path.stat().st_size > 400][:MOST_FILES]
    if not texts:
        raise click.UsageError("there is no text here to work on: name some text files, `fluffle demo FILE…`")
    return texts


@contextmanager
def _broker() -> Iterator[tuple[str, Path]]:
    """A private node of its own, with a state folder that goes with it."""
    from broker.amqp.alarms import alarm_of_node
    from broker.node.install import ensure_rabbitmq
    from broker.node.private_node import PrivateNode

    ensure_rabbitmq(click.echo)
    state_dir = Path(tempfile.mkdtemp(prefix="fluffle-demo-"))
    node = PrivateNode(state_dir)
    try:
        click.echo("Starting a private RabbitMQ node …")
        url = node.start()
        if alarm := alarm_of_node(url, node.folder):
            raise BrokerBlocked(alarm)
        yield url, state_dir
    finally:
        node.stop()
        shutil.rmtree(state_dir, ignore_errors=True)


@contextmanager
def _workforce(url: str, state_dir: Path, way: Sequence[str]) -> Iterator["Children"]:
    """The coordinator and the LLMs as processes; what they log goes to files in the state folder."""
    from fluffle.local.demo_scenario import CAST

    environment = os.environ | {"FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(state_dir)}
    environment.pop("FLUFFLE_DATABASE_URL", None)
    commands = {"coordinator": ["coordinator"]}
    for name, skills in CAST.items():
        levels = ",".join(f"{skill}={level}" for skill, level in skills.items())
        commands[name] = ["worker", name, "--skills", levels, *way]
    children: Children = {}
    try:
        for name, arguments in commands.items():
            path = state_dir / f"{name}.log"
            with open(path, "wb") as log:
                child = subprocess.Popen(  # noqa: S603 - this program itself
                    [sys.executable, "-m", "fluffle", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            children[name] = (child, path)
        click.echo(f"Started the coordinator and the LLMs {', '.join(CAST)}.")
        yield children
    finally:
        _end(children)


def _must_live(children: "Children") -> None:
    """Raises FluffleError, with what it printed, when one of the processes has ended."""
    for name, (child, log) in children.items():
        if child.poll() is not None:
            words = log.read_text(errors="replace").strip()[-2000:]
            raise FluffleError(f"{name} ended by itself (exit code {child.returncode}):\n{words}")


def _end(children: "Children") -> None:
    for child, _ in children.values():
        child.send_signal(signal.SIGTERM)
    for child, _ in children.values():
        try:
            child.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
