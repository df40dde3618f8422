"""`fluffle worker`: runs one LLM."""

from pathlib import Path
from typing import Any

import click

from fluffle.cli.exit_codes import INTERRUPTED, OK, USAGE
from fluffle.cli.options import (
    Abilities,
    Duration,
    ModelPrice,
    Name,
    Names,
    Skills,
    SpillOver,
    Tag,
    Tools,
    Whole,
    flat,
)


@click.command()
@click.argument("name", type=Name())
@click.option("--model", "-m", metavar="MODEL", help="A model: openai:gpt-6-luna, ollama:llama3.2, demo, …")
@click.option(
    "--fallback",
    multiple=True,
    type=Names(),
    help="Other models, best first, for when --model cannot answer: a limit, a server or connection that fails, a "
    "prompt that is too long. Not for a wrong API key or a refused request. Repeatable.",
)
@click.option("--base-url", metavar="URL", help="The URL of the model's server. Default: the provider's.")
@click.option(
    "--exec",
    "exec_command",
    metavar="COMMAND",
    help="A command: prompt on its input, answer on its output.",
)
@click.option(
    "--handler", metavar="MODULE:FUNCTION", help="A Python function that receives a job and returns the result."
)
@click.option(
    "--env",
    multiple=True,
    type=Names(),
    help="Environment variables that --exec passes to its command, in addition to PATH, HOME and similar ones: "
    "OPENAI_API_KEY,HTTPS_PROXY. Repeatable.  [default: all except Fluffle's]",
)
@click.option("--skills", "-k", multiple=True, type=Skills(), help="Skills with levels from 0 to 1: python=0.9,review.")
@click.option(
    "--labels",
    "-l",
    multiple=True,
    type=Names(),
    help="Labels of the LLM. `local` means that the LLM sends no data to other computers.",
)
@click.option(
    "--group", "-g", "groups", multiple=True, type=Name(), help="Receive the messages to this group. Repeatable."
)
@click.option(
    "--tools",
    type=Tools(),
    help="Tools that it may use: all, none, or some of send, ask, delegate, ask_person, "
    "share, read.  [default: all for --exec and --handler, none for --model]",
)
@click.option(
    "--slots", type=Whole(1, 10_000), default=1, show_default=True, help="Maximum number of tasks at the same time."
)
@click.option(
    "--instructions",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    metavar="FILE",
    help="A file with instructions: the system prompt of a model, the first lines of the prompt for a command.",
)
@click.option(
    "--timeout",
    type=Duration(),
    metavar="DURATION",
    help="Maximum duration of an attempt, if the task sets no timeout.  [default: 30m for --model]",
)
@click.option(
    "--stall-timeout",
    type=Duration(),
    metavar="DURATION",
    help="Maximum time without data from --model.  [default: FLUFFLE_STALL_TIMEOUT, 2m]",
)
@click.option(
    "--limit",
    type=Tag(),
    metavar="NAME",
    help="The rate limit that it shares with other LLMs, such as one subscription of several commands.  "
    "[default: of --model, one for each provider, base URL and API key]",
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    type=ModelPrice(),
    metavar="[MODEL=]INPUT,OUTPUT[,CACHED[,WRITTEN]]",
    help="The price in US dollars per million tokens; 0: free. With MODEL=, of one of several models. Repeatable.  "
    "[default: of --model, the known price]",
)
@click.option("--reserve", is_flag=True, help="It gets tasks only when others cannot do them: see --spill.")
@click.option(
    "--spill",
    type=SpillOver(),
    default="late",
    show_default=True,
    metavar="late|busy[:SECONDS]|never",
    help="When an LLM with --reserve gets tasks although others work: they would be late, or they would wait longer "
    "than SECONDS (60).",
)
@click.option(
    "--context-window",
    type=Whole(1, 10**9),
    metavar="TOKENS",
    help="The most tokens of a prompt and its answer.  [default: of --model, if known]",
)
@click.option(
    "--abilities",
    type=Abilities(),
    help="What it can do besides text: none, or some of tools, pictures, schema.  [default: of --model, if known]",
)
@click.option("--description", default="", metavar="TEXT", help="A description for the list of LLMs.")
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
    fallback: tuple[list[str], ...],
    limit: str | None,
    prices: tuple[tuple[str, Any], ...],
    reserve: bool,
    spill: tuple[Any, float],
    context_window: int | None,
    abilities: list[Any] | None,
    description: str,
    **way: str | None,
) -> int:
    """Run the LLM NAME as a worker, with one of --model, --exec and --handler.

    \b
      fluffle worker atlas --model ollama:llama3.2 --skills summarise,review=0.6
      fluffle worker vega --exec "llm -m gpt-6-luna" --slots 4
      fluffle worker iris --handler mymodule:answer

    While RabbitMQ is down, the worker waits. Several workers with the same NAME, on any machine, share the work. Ctrl-C
    or SIGTERM: the worker takes no new tasks, finishes its current ones, and ends. Ctrl-C again: it stops at once, and
    its tasks go to other workers. Results that RabbitMQ did not confirm are kept in the state folder; the next worker
    with this NAME sends them.
    """
    import asyncio
    import os
    import signal

    from broker.errors import ConfigurationError
    from broker.node.locate import amqp_url
    from broker.protocol.task_requests import TOOLS
    from broker.settings import load_settings
    from broker.telemetry.log_config import configure_logging
    from fluffle.cli.python_tuning import set_up_for_long
    from fluffle.presentation.output import complain
    from workers.app import build_worker
    from workers.models.factory import MODEL_TIMEOUT, build_llm, price_of_runs, warn_of_trouble

    settings = load_settings()
    system_prompt = _read(instructions) if instructions else None
    os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")
    try:
        llm = build_llm(
            model=way["model"],
            base_url=way["base_url"],
            exec_command=way["exec_command"],
            handler=way["handler"],
            env=flat(env) if env else None,
            stall_timeout=stall_timeout or settings.stall_timeout,
            fallback=flat(fallback),
            prices=dict(prices),
        )
    except ConfigurationError as error:
        complain(str(error))
        return USAGE
    url = amqp_url(settings)
    configure_logging(settings.log_level)
    set_up_for_long()

    async def serve() -> int:
        worker = build_worker(
            url=url,
            name=name,
            llm=llm,
            spool_dir=settings.state_dir / "spool" / name,
            slots=slots,
            skills={tag: level for given in skills for tag, level in given.items()},
            labels=flat(labels),
            groups=groups,
            description=description,
            instructions=system_prompt,
            timeout=MODEL_TIMEOUT if timeout is None and way["model"] else timeout,
            tools=tools if tools is not None else () if way["model"] else TOOLS,
            heartbeat_interval=settings.beat,
            max_body=settings.max_body,
            require_identity=settings.require_identity,
            metrics_address=None if settings.metrics_port is None else (settings.metrics_host, settings.metrics_port),
            traces=settings.traces,
            limit=limit,
            price=price_of_runs(way["model"], dict(prices)),
            reserve=reserve,
            spill=spill[0],
            spill_after=spill[1],
            context_window=context_window,
            abilities=abilities,
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
