"""The command `fluffle`: its sub-commands, and the exit codes for errors and interrupts."""

import sys
from typing import NoReturn

import click

from broker.errors import BrokerBlocked, BrokerUnreachable, FluffleError, TaskCancelled, TaskFailed
from fluffle.cli.exit_codes import BLOCKED, ERROR, INTERRUPTED, MEANINGS, OK, TASK_FAILED
from fluffle.cli.lazy import LazyCommand, LazyGroup

_REMEDY = ". Start RabbitMQ, or set FLUFFLE_AMQP_URL to another one"

COMMANDS = (
    LazyCommand("demo", "fluffle.cli.processes.demo:demo", "Run a complete example on text files."),
    LazyCommand(
        "up", "fluffle.cli.processes.up:up", "Run everything in fluffle.toml: RabbitMQ, coordinator, web page, LLMs."
    ),
    LazyCommand("task", "fluffle.cli.task.group:task", "Submit tasks, watch and change them, get their results."),
    LazyCommand(
        "message", "fluffle.cli.message:message", "Send messages to LLMs and people, ask them, read your inbox."
    ),
    LazyCommand("llm", "fluffle.cli.llm:llm", "List the LLMs and their tasks; pause, drain or change them."),
    LazyCommand(
        "limit", "fluffle.cli.spending.limit:limit", "List the rate limits that LLMs share; pause or set them."
    ),
    LazyCommand("budget", "fluffle.cli.spending.budget:budget", "List, set and raise budgets; stop all spending."),
    LazyCommand("report", "fluffle.cli.report:report", "Print statistics about tasks."),
    LazyCommand("web", "fluffle.cli.processes.web:web", "Serve the web page."),
    LazyCommand("rejected", "fluffle.cli.admin.rejected:rejected", "List rejected messages, requeue or drop them."),
    LazyCommand("worker", "fluffle.cli.processes.worker:worker", "Run an LLM as a worker."),
    LazyCommand("tool", "fluffle.cli.tool:tool", "Tools for a command that a worker runs: send, ask, delegate, …"),
    LazyCommand("coordinator", "fluffle.cli.processes.coordinator:coordinator", "Run the coordinator."),
    LazyCommand("database", "fluffle.cli.admin.database:database", "Back up and restore the coordinator's database."),
    LazyCommand(
        "broker",
        "fluffle.cli.processes.broker:broker",
        "Manage the private RabbitMQ node, or prepare another RabbitMQ for Fluffle.",
    ),
)

EPILOG = f"""\b
Exit codes:
{chr(10).join(f"  {code:>3}   {meaning}" for code, meaning in MEANINGS.items())}

Commands use the RabbitMQ of FLUFFLE_AMQP_URL, or else the private node that `fluffle broker start` runs.
"""


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="fluffle", message="%(prog)s %(version)s")
def cli() -> None:
    """A workforce of LLMs on RabbitMQ."""


def run(args: list[str] | None = None) -> int:
    """Run the command line `args`, by default the arguments of the process. Returns the exit code."""
    try:
        code = cli.main(args, prog_name="fluffle", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except FluffleError as error:
        remedy = _REMEDY if isinstance(error, BrokerUnreachable) else ""
        click.echo(f"Error: {error}{remedy}", err=True)
        if isinstance(error, BrokerBlocked):
            return BLOCKED
        return TASK_FAILED if isinstance(error, TaskFailed | TaskCancelled) else ERROR
    except OSError as error:  # for example the output goes to a full disk
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {where}{error.strerror or error}", err=True)
        return ERROR
    return code if isinstance(code, int) else OK


def main() -> NoReturn:
    """Run the program `fluffle` and exit."""
    sys.exit(run())
