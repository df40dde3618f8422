"""`fluffle worker`: one LLM, at work."""

from pathlib import Path
from typing import Any

import click

from fluffle.cli.main import INTERRUPTED, OK, USAGE
from fluffle.cli.options import Duration, Name, Names, Skills, Tools, Whole, flat


@click.command()
@click.argument("name", type=Name())
@click.option("--model", "-m", metavar="MODEL", help="A model: openai:gpt-6-luna, ollama:llama3.2, demo, …")
@click.option("--base-url", metavar="URL", help="The model's server, if it is not the provider's own.")
@click.option("--exec", "exec_command", metavar="COMMAND", help="A command: prompt on its input, answer on its output.")
@click.option("--handler", metavar="MODULE:FUNCTION", help="A Python function that takes a job and returns the result.")
@click.option(
    "--env",
    multiple=True,
    type=Names(),
    help="Environment variables that the command of --exec gets, besides PATH, HOME and the like: "
    "OPENAI_API_KEY,HTTPS_PROXY. Repeat it.  [default: all but Fluffle's own]",
)
@click.option("--skills", "-k", multiple=True, type=Skills(), help="What it can do, and how well: python=0.9,review.")
@click.option("--labels", "-l", multiple=True, type=Names(), help="What it is: local, if nothing leaves its computer.")
@click.option("--group", "-g", "groups", multiple=True, type=Name(), help="Get the messages to this group. Repeat it.")
@click.option(
    "--tools",
    type=Tools(),
    help="What it may do while it works: all, none, or some of send, ask, delegate, ask_person, "
    "share, read.  [default: all for --exec and --handler, none for --model]",
)
@click.option("--slots", type=Whole(1, 10_000), default=1, show_default=True, help="Tasks at the same time.")
@click.option(
    "--instructions",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    metavar="FILE",
    help="How it is to work: the system prompt of a model, the first lines for a command.",
)
@click.option(
    "--timeout",
    type=Duration(),
    metavar="DURATION",
    help="How long a task may take that does not say.  [default: 30m for --model]",
)
@click.option(
    "--stall-timeout",
    type=Duration(),
    metavar="DURATION",
    help="How long a --model may send nothing at all.  [default: FLUFFLE_STALL_TIMEOUT, 2m]",
)
@click.option("--description", default="", metavar="TEXT", help="What it is, for people who look at the list of LLMs.")
def worker(
    *,
    name: str,
    env: tuple[list[str], ...],
    skills: tuple[dict[str, float], ...],
    labels: tuple[list[str], ...],
    groups: tuple[str, ...],
    tools: list[Any] | None,
    slots: int,
    instructions: Path | None,
    timeout: float | None,
    stall_timeout: float | None,
    description: str,
    **way: str | None,
) -> int:
    """Run the LLM NAME as a worker, with one of --model, --exec and --handler.

    \b
      fluffle worker atlas --model ollama:llama3.2 --skills summarise,review=0.6
      fluffle worker vega --exec "llm -m gpt-6-luna" --slots 4
      fluffle worker iris --handler mymodule:answer

    It waits for RabbitMQ if that is away. Start it again under the same NAME, here or on another machine, and both
    share the work. Ctrl-C or SIGTERM: it takes nothing new, finishes what it has, and leaves. A second one: it stops
    at once, and its tasks go to others. Answers that RabbitMQ did not confirm are kept in the state folder and sent
    by the next worker of that NAME.
    """
    import asyncio
    import signal

    from broker.errors import ConfigurationError
    from broker.log_config import configure_logging
    from broker.node.locate import amqp_url
    from broker.protocol.task_requests import TOOLS
    from broker.settings import load_settings
    from fluffle.cli.python_tuning import set_up_for_long
    from fluffle.presentation.output import complain
    from workers.models.factory import MODEL_TIMEOUT, build_llm, warn_of_trouble
    from workers.worker import Worker

    settings = load_settings()
    guidance = _read(instructions) if instructions else None
    try:
        llm = build_llm(
            model=way["model"],
            base_url=way["base_url"],
            exec_command=way["exec_command"],
            handler=way["handler"],
            env=flat(env) if env else None,
            stall_timeout=stall_timeout or settings.stall_timeout,
        )
    except ConfigurationError as error:
        complain(str(error))
        return USAGE
    url = amqp_url(settings)
    configure_logging(settings.log_level)
    set_up_for_long()

    async def serve() -> int:
        worker = Worker(
            settings,
            url=url,
            name=name,
            llm=llm,
            slots=slots,
            skills={tag: level for given in skills for tag, level in given.items()},
            labels=flat(labels),
            groups=groups,
            description=description,
            instructions=guidance,
            timeout=MODEL_TIMEOUT if timeout is None and way["model"] else timeout,
            tools=tools if tools is not None else () if way["model"] else TOOLS,
        )
        signals = 0

        def on_signal() -> None:
            nonlocal signals
            signals += 1
            worker.drain() if signals == 1 else worker.stop()

        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, on_signal)
        checking = asyncio.create_task(warn_of_trouble(name, llm))
        await worker.run()
        checking.cancel()
        return INTERRUPTED if signals > 1 else OK

    return asyncio.run(serve())


def _read(instructions: Path) -> str:
    try:
        return instructions.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"cannot read {instructions}: {error}", param_hint="--instructions") from error
