"""`fluffle up`: runs everything in fluffle.toml."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from fluffle.cli.exit_codes import INTERRUPTED, OK

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue")
_SHOWN_SEPARATELY = ("event", "level", "timestamp", "logger")


@click.command()
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path),
    default="fluffle.toml",
    show_default=True,
    help="The configuration file.",
)
def up(*, path: Path) -> int:
    """Run everything in fluffle.toml: RabbitMQ, the coordinator, the web page and the LLMs.

    \b
      [llm.atlas]
      model = "ollama:llama3.2"
      skills = { summarise = 0.9, review = 0.6 }
      slots = 2

    Uses the private RabbitMQ node, unless the file or FLUFFLE_AMQP_URL names another RabbitMQ. The output of each
    program is shown after its name. A program that ends is started again, except an LLM that was stopped with
    `fluffle llm drain`. Ctrl-C or SIGTERM: the LLMs finish their tasks, then everything stops; a private node that was
    already running keeps running. Ctrl-C again: the LLMs stop at once.
    """
    import asyncio

    from fluffle.local.config import load
    from fluffle.local.stack import Stack

    configuration = load(path)
    say = _printer(("up", "coordinator", "web", *configuration.llms))
    return OK if asyncio.run(Stack(configuration, say).run()) else INTERRUPTED


def _printer(names: Sequence[str]) -> Callable[[str, str], None]:
    """Return a function that prints lines of programs, each after the program's name."""
    from fluffle.presentation.output import in_colour, on_terminal, plain

    width = max(map(len, names))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}

    def say(name: str, line: str) -> None:
        head = f"{name:<{width}} │ "
        text = plain(_readable(line) if on_terminal() else line)
        with suppress(OSError):  # the terminal is closed or the disk is full; the LLMs keep running
            click.echo((click.style(head, fg=colours[name]) if in_colour() else head) + text)

    return say


def _readable(line: str) -> str:
    """Return a log line in JSON as level, event and fields; any other line as it is."""
    try:
        entry = json.loads(line)
        rest = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _SHOWN_SEPARATELY)
        level = "" if entry["level"] == "info" else f"{entry['level']}: "
        return f"{level}{entry['event']}  {rest}".rstrip()
    except (ValueError, TypeError, KeyError, AttributeError):
        return line
