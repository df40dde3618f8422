"""`fluffle message`: send messages to LLMs and people, ask them, read the inbox and the history."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fluffle.cli.exit_codes import OK, TASK_FAILED, TIMED_OUT
from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Duration, Name, Whole
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.chat import Message
    from broker.protocol.views import ConversationView, MessageView

as_option = click.option(
    "--as", "user", type=Name(), metavar="NAME", help="Your name. Default: FLUFFLE_USER, or else your login name."
)
to_argument = click.argument("to")
text_argument = click.argument("text")
conversation_option = click.option("--conversation", "-c", metavar="ID", help="Continue this conversation.")

NOTHING_SAID = "No messages yet."


@click.group(cls=OrderedGroup)
def message() -> None:
    """Send messages to LLMs and people, ask them, read your inbox.

    TO is an LLM (ada or llm.ada), a person (user.ana), a group (group.reviewers) or all. TEXT `-` reads standard
    input. Messages wait in the mailbox of the receiver; the coordinator keeps the history.
    """


@message.command()
@to_argument
@text_argument
@conversation_option
@as_option
@json_option
def send(*, to: str, text: str, conversation: str | None, user: str | None, as_json: bool) -> None:
    """Send a message without waiting for an answer.

    The answer of an LLM arrives in your inbox: see `fluffle message inbox`. Prints the IDs of the message and its
    conversation. If a group has no members, a notice arrives in your inbox.
    """
    from fluffle.presentation.output import print_json

    async def sent() -> "Message":
        async with client(user) as sending:
            return await sending.send(to, _text(text), conversation_id=conversation)

    it = run(sent())
    if as_json:
        print_json(it.encode())
    else:
        click.echo(f"{it.id}\t{it.receiver}\t{it.conversation_id}")


@message.command()
@to_argument
@text_argument
@click.option(
    "--timeout",
    "-t",
    type=Duration(),
    default=120.0,
    metavar="DURATION",
    help="How long to wait for the answer. Default: 2 minutes.",
)
@conversation_option
@as_option
@json_option
def ask(*, to: str, text: str, timeout: float, conversation: str | None, user: str | None, as_json: bool) -> int:
    """Send a message, wait for the answer, and print it.

    On a terminal, shows the text of an LLM while it writes, and then how to continue the conversation. The exit code
    is 3 if the receiver could not answer, and 4 if the time ran out; a late answer arrives in your inbox.
    """
    from fluffle.presentation.output import complain, on_terminal, plain, print_json

    shown: list[str] = []

    def show(piece: str) -> None:
        shown.append(piece)
        click.echo(plain(piece), nl=False)

    async def answered() -> "Message":
        async with client(user) as asking:
            on_text = show if on_terminal() and not as_json else None
            return await asking.ask(to, _text(text), timeout, conversation_id=conversation, on_text=on_text)

    try:
        answer = run(answered())
    except TimeoutError as error:
        if shown:
            click.echo()
        complain(str(error))
        return TIMED_OUT
    if as_json:
        print_json(answer.encode())
    else:
        _print_rest(answer.content, "".join(shown))
        if on_terminal():
            click.echo(f"To continue: --conversation {answer.conversation_id}", err=True)
    return TASK_FAILED if "error" in answer.metadata else OK


@message.command()
@click.option("--keep", is_flag=True, help="Keep the messages in the mailbox.")
@click.option("--follow", "-f", is_flag=True, help="Print new messages as they arrive, until Ctrl-C.")
@as_option
@json_option
def inbox(*, keep: bool, follow: bool, user: str | None, as_json: bool) -> None:
    """Print the messages in your mailbox, each once.

    Removes them from the mailbox as they are printed. They stay in the history: see `fluffle message history`.
    """
    from fluffle.presentation.output import on_terminal

    if keep and follow:
        raise click.UsageError("Give --keep or --follow, not both: kept messages would be printed again.")

    async def take() -> int:
        count = 0
        async with client(user) as reading:
            async for it in reading.inbox(wait=follow, keep=keep):
                _print_message(it, as_json=as_json)
                count += 1
        return count

    if run(take()) == 0 and on_terminal() and not as_json:
        click.echo("No new messages.")


@message.command()
@click.option("--with", "participant", metavar="ADDRESS", help="Only messages from or to this LLM, person or group.")
@json_option
def tail(*, participant: str | None, as_json: bool) -> None:
    """Print all messages from now on, until Ctrl-C.

    Removes nothing from any mailbox.
    """

    async def follow() -> None:
        from broker.protocol.views import MessageView
        from fluffle.client.methods.chat import address_of

        address = None if participant is None else address_of(participant)
        async with client() as listening, listening.listen(participant=address) as said:
            async for it in said:
                assert isinstance(it, MessageView)
                _print_message(it, as_json=as_json)

    run(follow())


@message.command()
@click.option("--conversation", "-c", metavar="ID", help="Only this conversation.")
@click.option("--with", "participant", metavar="ADDRESS", help="Only messages from or to this LLM, person or group.")
@click.option("--search", metavar="TEXT", help="Only messages that contain this text, in upper or lower case.")
@click.option(
    "--limit",
    "-n",
    type=Whole(min=1),
    default=50,
    show_default=True,
    help="Print at most this many, the newest ones.",
)
@json_option
def history(
    *, conversation: str | None, participant: str | None, search: str | None, limit: int, as_json: bool
) -> None:
    """Print past messages, the newest last."""
    from fluffle.presentation.output import on_terminal, print_json

    async def fetch() -> "list[MessageView]":
        from fluffle.client.methods.chat import address_of

        address = None if participant is None else address_of(participant)
        async with client() as asking:
            found = asking.messages(conversation_id=conversation, participant=address, text=search, limit=limit)
            return [view async for view in found]

    found = run(fetch())[::-1]
    if as_json:
        print_json([view.model_dump(mode="json", exclude_none=True) for view in found])
        return
    for view in found:
        _print_message(view, as_json=False)
    if not found and on_terminal():
        click.echo("No messages match." if conversation or participant or search else NOTHING_SAID)


@message.command()
@click.option("--with", "participant", metavar="ADDRESS", help="Only conversations with this address.")
@click.option(
    "--limit",
    "-n",
    type=Whole(min=1),
    default=50,
    show_default=True,
    help="Print at most this many, the newest ones.",
)
@json_option
def conversations(*, participant: str | None, limit: int, as_json: bool) -> None:
    """List conversations, sorted by their newest message."""
    from fluffle.presentation.output import print_json, print_table

    async def fetch() -> "list[ConversationView]":
        from fluffle.client.methods.chat import address_of

        address = None if participant is None else address_of(participant)
        async with client() as asking:
            return [view async for view in asking.conversations(participant=address, limit=limit)]

    found = run(fetch())
    if as_json:
        print_json([view.model_dump(mode="json", exclude_none=True) for view in found])
        return
    print_table(
        ("CONVERSATION", "MESSAGES", "LAST", "FROM", "TO", "TEXT"),
        [(it.id, it.count, it.last.sent_at, it.last.sender, it.last.receiver, it.last.content) for it in found],
        spare=("MESSAGES", "TO", "LAST"),
        empty="No conversations match." if participant else NOTHING_SAID,
    )


@message.command()
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@as_option
def join(*, groups: Sequence[str], user: str | None) -> None:
    """Receive the messages to groups from now on."""

    async def join_all() -> None:
        async with client(user) as joining:
            for group in groups:
                await joining.join(group)
                click.echo(f"{joining.address} receives the messages to group.{group.removeprefix('group.')}")

    run(join_all())


@message.command()
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@as_option
def leave(*, groups: Sequence[str], user: str | None) -> None:
    """Stop receiving the messages to groups."""

    async def leave_all() -> None:
        async with client(user) as leaving:
            for group in groups:
                await leaving.leave(group)
                click.echo(f"{leaving.address} no longer receives the messages to group.{group.removeprefix('group.')}")

    run(leave_all())


def _text(given: str) -> str:
    from fluffle.cli.options import text_of

    return text_of("-").rstrip("\r\n") if given == "-" else given


def _print_rest(content: str, shown: str) -> None:
    """Print the part of the answer that was not shown while it was written."""
    from fluffle.presentation.output import on_terminal, plain

    text = plain(content) if on_terminal() else content
    before = plain(shown)
    if before and text.startswith(before):
        click.echo(text[len(before) :])
    elif before:
        click.echo(f"\n\n{text}")
    else:
        click.echo(text)


def _print_message(it: "Message | MessageView", *, as_json: bool) -> None:
    """Print a message: time, sender, receiver and text; in a pipe on one line that starts with its ids."""
    from fluffle.presentation.output import cell, clock, heading, in_colour, on_terminal, plain, print_json

    if as_json:
        print_json(it.model_dump_json(exclude_none=True).encode())
    elif on_terminal():
        undelivered = "" if getattr(it, "delivered", True) else "  (not delivered)"
        heading(f"{clock(it.sent_at)}  {it.sender} → {it.receiver}{undelivered}")
        click.echo(plain(it.content))
        footer = f"conversation {it.conversation_id}"
        click.echo(click.style(footer, dim=True) if in_colour() else footer)
    else:
        click.echo("\t".join(map(cell, (it.id, it.conversation_id, it.sent_at, it.sender, it.receiver, it.content))))
