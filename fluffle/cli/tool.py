"""`fluffle tool`: the tools of a command that a worker runs, through the worker's socket."""

import json
import os
import socket
from typing import Any

import click

from broker.mappings import without_none
from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import JSON, Duration, Name, Names, flat, text_of

SOCKET_VARIABLE = "FLUFFLE_TOOLS"


@click.group(cls=OrderedGroup)
def tool() -> None:
    """Tools for a command that a worker runs: what it may do while it works.

    \b
      fluffle worker vega --exec ./agent.sh

    `agent.sh` finds the socket of its worker in FLUFFLE_TOOLS, and needs no permissions on RabbitMQ. While a tool
    waits, the task takes no slot. If a tool fails, the reason is on standard error and the exit code is 1.
    """


@tool.command()
@click.argument("to")
@click.argument("text")
def send(*, to: str, text: str) -> None:
    """Send a message.

    TO is the name of an LLM, or an address: user.ana, group.reviewers, all. TEXT `-` reads standard input.
    """
    _call("send", to=to, text=_given(text))


@tool.command()
@click.argument("to")
@click.argument("question")
@click.option("--timeout", "-t", type=Duration(), metavar="DURATION", help="How long to wait for the answer.")
def ask(*, to: str, question: str, timeout: float | None) -> None:
    """Ask another LLM, or a person by name, and print the answer.

    QUESTION `-` reads standard input.
    """
    _print(_call("ask", to=to, question=_given(question), timeout=timeout))


@tool.command()
@click.argument("description")
@click.option("--skills", "-k", multiple=True, type=Names(), help="Skills that the other LLM must have.")
@click.option("--assignee", "-a", type=Name(), metavar="LLM", help="The LLM. Default: the best one with these skills.")
@click.option("--input", "inputs", type=JSON(), metavar="JSON", help="Additional input, as JSON.")
@click.option(
    "--input-file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="A text file as additional input; `-`: stdin.",
)
@click.option("--schema", "output_schema", type=JSON(), metavar="JSON", help="A JSON Schema for the result.")
@click.option("--timeout", "-t", type=Duration(), metavar="DURATION", help="Maximum duration of one attempt.")
def delegate(*, input_file: str | None, inputs: Any, skills: tuple[list[str], ...], **given: Any) -> None:
    """Delegate a part of the task to another LLM, and print its result.

    DESCRIPTION `-` reads standard input. A result that is not text is printed as JSON.
    """
    if input_file is not None:
        if inputs is not None:
            raise click.UsageError("Give --input or --input-file, not both.")
        inputs = {"text": text_of(input_file)}
    given["description"] = _given(given["description"])
    _print(_call("delegate", inputs=inputs, skills=flat(skills) or None, **given))


@tool.command(name="ask-person")
@click.argument("question")
@click.option("--choice", "-c", "choices", multiple=True, help="A possible answer. Repeat the option for each.")
def ask_person(*, question: str, choices: tuple[str, ...]) -> None:
    """Ask any person, and print the answer.

    The task is `input_required` until a person answers, with `fluffle task answer` or on the web page.
    """
    _print(_call("ask_person", question=_given(question), choices=list(choices) or None))


@tool.command()
@click.argument("name")
@click.argument("content")
def share(*, name: str, content: str) -> None:
    """Put a note on the board of the task.

    All LLMs that work on the task can read it. CONTENT `-` reads standard input.
    """
    _call("share", name=name, content=_given(content))


@tool.command()
@click.argument("name")
def read(*, name: str) -> None:
    """Print a note from the board of the task."""
    _print(_call("read", name=name))


def _given(text: str) -> str:
    return text_of("-") if text == "-" else text


def _call(tool: str, /, **arguments: Any) -> Any:
    """Call a tool and return its result. Raises ClickException with the reason when the tool fails."""
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        raise click.ClickException(_reason_for_no_tools())
    given = without_none(arguments)
    try:
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(path)
            worker.sendall(json.dumps({"tool": tool, "arguments": given}).encode() + b"\n")
            with worker.makefile(encoding="utf-8") as lines:
                line = lines.readline()
    except OSError as error:
        raise click.ClickException(f"cannot reach the worker at {path}: {error.strerror}") from error
    if not line:
        raise click.ClickException("the worker ended the attempt")
    answer = json.loads(line)
    if "error" in answer:
        raise click.ClickException(answer["error"])
    return answer["result"]


def _reason_for_no_tools() -> str:
    """Return why this command has no tools, judged by the environment variables of its process."""
    if "FLUFFLE_MESSAGE_ID" in os.environ:
        return "a command that answers a message has no tools; tools are for tasks"
    if "FLUFFLE_TASK_ID" in os.environ:
        return "this LLM may not use tools: allow them with `fluffle worker --tools`"
    return f"{SOCKET_VARIABLE} is not set: `fluffle tool` works only in a command that `fluffle worker --exec` runs"


def _print(result: Any) -> None:
    click.echo(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
