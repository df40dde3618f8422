"""The page docs/cli.md, generated from the commands: `python -m fluffle.cli.reference > docs/cli.md`."""

from collections.abc import Iterator
from inspect import cleandoc
from textwrap import dedent

import click

from fluffle.cli.exit_codes import MEANINGS
from fluffle.cli.lazy import LazyCommand
from fluffle.cli.main import cli

HEAD = """\
# Commands

This page is generated from `--help` of the commands by `python -m fluffle.cli.reference`.

## All commands

**Output.** On a terminal, lists are tables with colours and relative times such as `3 min ago`. On a narrow terminal,
the last column is shortened and some columns are left out. In a pipe, lists are lines of tab-separated values without
headings, with times in ISO 8601; long descriptions of tasks end with `…` after 500 characters. `NO_COLOR` turns
colours off. `--json` prints JSON: a list as one array, a stream as one object per line. Results and lists go to
standard output; errors, logs and progress bars go to standard error. On a terminal, texts from LLMs and other senders
are printed without control characters.

**Exit codes.**

| code | meaning |
|---|---|
{exit_codes}

**Times and durations.** A TIME is ISO 8601, `2026-12-01T09:00` or `20261201`, in local time unless it has an offset; or
a duration from now with its unit, `90s`, `5m`, `2h`, `1d` or `1w` (before now for `--since` and `--until`). A DURATION
without a unit is in seconds. The longest duration is 100 years.

**RabbitMQ.** Commands use the RabbitMQ of `FLUFFLE_AMQP_URL`, or else the private node that `fluffle broker start`
runs. [Settings](settings.md) lists all variables.

**Completion.** To complete commands and options in the shell, run one of these:

```sh
eval "$(_FLUFFLE_COMPLETE=bash_source fluffle)"             # ~/.bashrc
eval "$(_FLUFFLE_COMPLETE=zsh_source fluffle)"              # ~/.zshrc
_FLUFFLE_COMPLETE=fish_source fluffle | source              # ~/.config/fish/config.fish
```
"""


def page() -> str:
    """Return the page as Markdown."""
    root = cli.make_context("fluffle", [], resilient_parsing=True)
    exit_codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in MEANINGS.items())
    return HEAD.format(exit_codes=exit_codes) + "".join(f"\n{section}" for section in _sections(root))


def _sections(context: click.Context) -> Iterator[str]:
    """Yield a section for each command below this one."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, LazyCommand):
            command = command.load()
        assert command is not None
        child = click.Context(command, info_name=name, parent=context, terminal_width=100)
        level = "##" if context.parent is None else "###"
        if isinstance(command, click.Group) and not command.invoke_without_command:
            yield f"{level} {child.command_path}\n\n{_prose(command)}\n"
        else:
            yield f"{level} {child.command_path}\n\n```text\n{command.get_help(child)}\n```\n"
        if isinstance(command, click.Group):
            yield from _sections(child)


def _prose(group: click.Group) -> str:
    return "\n\n".join(map(_paragraph, cleandoc(group.help or "").split("\n\n")))


def _paragraph(text: str) -> str:
    """Return a paragraph on one line; one that click does not wrap, as a block of code."""
    if text.startswith("\b"):
        return f"```text\n{dedent(text.removeprefix(chr(8)).strip(chr(10)))}\n```"
    return " ".join(text.split())


if __name__ == "__main__":
    click.echo(page(), nl=False)
