"""`fluffle tool`: what a command that a worker runs may do while it works, by the worker's socket."""

import json
import os
import socket
from typing import Any

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import JSON, Duration, Name, Names, flat, text_of

SOCKET_VARIABLE = "FLUFFLE_TOOLS"


@click.group(cls=OrderedGroup)
def tool() -> None:
    """For a command that a worker runs: what it may do while it works.

    \b
      fluffle worker vega --exec ./agent.sh

    `agent.sh` finds the socket of its worker in FLUFFLE_TOOLS, and needs no rights on RabbitMQ. What waits here holds
    no slot meanwhile. What cannot be done is told on standard error, with exit code 1.
    """


@tool.command()
@click.argument("to")
@click.argument("text")
def send(*, to: str, text: str) -> None:
    """Send a message.

    TO is the name of an LLM, or an address: user.ana, group.reviewers, all. TEXT `-` is taken from standard input.
    """
    _call("send", to=to, text=_given(text))


@tool.command()
@click.argument("to")
@click.argument("question")
@click.option("--timeout", "-t", type=Duration(), metavar="DURATION", help="How long to wait for the answer.")
def ask(*, to: str, question: str, timeout: float | None) -> None:
    """Ask another LLM, or a person by name, and print the answer.

    QUESTION `-` is taken from standard input.
    """
    _print(_call("ask", to=to, question=_given(question), timeout=timeout))


@tool.command()
@click.argument("description")
@click.option("--skills", "-k", multiple=True, type=Names(), help="What the other LLM must be able to do.")
@click.option("--assignee", "-a", type=Name(), metavar="LLM", help="Which LLM; else the best one with these skills.")
@click.option("--input", "inputs", type=JSON(), metavar="JSON", help="What it gets besides, as JSON.")
@click.option("--input-file", type=click.Path(allow_dash=True), metavar="FILE", help="A text that it gets; `-`: stdin.")
@click.option("--schema", "output_schema", type=JSON(), metavar="JSON", help="A JSON Schema for the result.")
@click.option("--timeout", "-t", type=Duration(), metavar="DURATION", help="How long one attempt may take.")
def delegate(*, input_file: str | None, inputs: Any, skills: tuple[list[str], ...], **given: Any) -> None:
    """Give a part of the task to another LLM, and print its result.

    DESCRIPTION `-` is taken from standard input. A result that is no text is printed as JSON.
    """
    if input_file is not None:
        if inputs is not None:
            raise click.UsageError("Give --input or --input-file, not both.")
        inputs = {"text": text_of(input_file)}
    given["description"] = _given(given["description"])
    _print(_call("delegate", inputs=inputs, skills=flat(skills) or None, **given))


@tool.command(name="ask-person")
@click.argument("question")
@click.option("--choice", "-c", "choices", multiple=True, help="A possible answer. Repeat it for each.")
def ask_person(*, question: str, choices: tuple[str, ...]) -> None:
    """Ask whoever is there, and print the answer.

    The task is `input_required` until somebody answers, with `fluffle task answer` or on the web page.
    """
    _print(_call("ask_person", question=_given(question), choices=list(choices) or None))


@tool.command()
@click.argument("name")
@click.argument("content")
def share(*, name: str, content: str) -> None:
    """Put a note on the board of the task.

    All that work on the task can read it. CONTENT `-` is taken from standard input.
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
    """What the tool answers. Raises ClickException with its reason when it cannot."""
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        raise click.ClickException(_why_there_is_none())
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(path)
            worker.sendall(json.dumps({"tool": tool, "arguments": given}).encode() + b"\n")
            with worker.makefile(encoding="utf-8") as lines:
                line = lines.readline()
    except OSError as error:
        raise click.ClickException(f"the worker cannot be reached at {path}: {error.strerror}") from error
    if not line:
        raise click.ClickException("the worker has ended the attempt")
    answer = json.loads(line)
    if "error" in answer:
        raise click.ClickException(answer["error"])
    return answer["result"]


def _why_there_is_none() -> str:
    """Why this command has no tools: what runs it is known by the environment that it got."""
    if "FLUFFLE_MESSAGE_ID" in os.environ:
        return "tools are for tasks; a command that answers a message has none"
    if "FLUFFLE_TASK_ID" in os.environ:
        return "this LLM may use no tools: `fluffle worker --tools` gives them to it"
    return f"{SOCKET_VARIABLE} is not set: this works in a command that `fluffle worker --exec` runs"


def _print(result: Any) -> None:
    click.echo(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
