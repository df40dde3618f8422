"""The page docs/cli.md, made from the commands themselves: `python -m fluffle.cli.reference > docs/cli.md`."""

from collections.abc import Iterator

import click

from fluffle.cli.exit_codes import MEANINGS
from fluffle.cli.lazy import LazyCommand
from fluffle.cli.main import cli

HEAD = """\
# Commands

This page is made by `python -m fluffle.cli.reference` from what the commands say with `--help`.

## For all commands

**Output.** On a terminal, lists are tables with colours and times such as `3 min ago`; where it is narrow, the last
column is shortened and others are left out. In a pipe they are lines of tab-separated values without headings, with
times in ISO 8601; long descriptions of tasks end with `…` after 500 characters. `NO_COLOR` turns colours off. `--json`
prints JSON: a list as one array, and what comes bit by bit as an object a line. Results and lists go to standard
output; errors, logs and progress bars to standard error. On a terminal, text that LLMs or strangers wrote is printed
without control characters.

**Exit codes.**

| code | meaning |
|---|---|
{exit_codes}

**Moments and lengths.** A moment is ISO 8601, `2026-12-01T09:00` or `20261201`, in local time unless it has an offset;
or a length of time from now with its unit, `90s`, `5m`, `2h`, `1d` or `1w` (before now for `--since` and `--until`).
Where a length alone is wanted, a number without a unit is seconds. The longest is 100 years.

**Which RabbitMQ.** The one of `FLUFFLE_AMQP_URL`, else the private node that `fluffle broker start` runs.
[Settings](settings.md) lists all variables.

**Completion.** The shell completes commands and options after one of these:

```sh
eval "$(_FLUFFLE_COMPLETE=bash_source fluffle)"             # ~/.bashrc
eval "$(_FLUFFLE_COMPLETE=zsh_source fluffle)"              # ~/.zshrc
_FLUFFLE_COMPLETE=fish_source fluffle | source              # ~/.config/fish/config.fish
```
"""


def page() -> str:
    """The whole page, Markdown."""
    root = cli.make_context("fluffle", [], resilient_parsing=True)
    exit_codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in MEANINGS.items())
    return HEAD.format(exit_codes=exit_codes) + "".join(f"\n{section}" for section in _sections(root))


def _sections(context: click.Context) -> Iterator[str]:
    """A section for every command below this one."""
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
    return "\n\n".join(" ".join(part.split()) for part in (group.help or "").split("\n\n"))


if __name__ == "__main__":
    click.echo(page(), nl=False)
