"""Conversations with LLMs. What an LLM writes appears while it writes."""

from urllib.parse import urlencode

from nicegui import ui

from broker.ids import uuid7
from broker.protocol.chat import is_address
from broker.protocol.topology import llm_address
from broker.protocol.views import ConversationView, MessageView
from fluffle.web.components import HtmlElement, Pairs, ago, empty, form, rendered, status
from fluffle.web.layout import frame
from fluffle.web.live import Paced, Update
from fluffle.web.markdown import markdown, prepared, rendered_apart
from fluffle.web.page_context import PageContext, SharedServices

MAX_MESSAGES_SHOWN = 500  # messages of a conversation that are shown
ANSWER_TIMEOUT_SECONDS = 600.0  # seconds; an answer that takes longer is in the mailbox of who runs the page

_MAX_CONVERSATIONS_SHOWN = 30
_STREAM_INTERVAL_SECONDS = 0.1  # seconds


def add(site: SharedServices) -> None:
    """Add the pages: who to talk to, and a conversation."""

    @ui.page("/chat")
    async def chat() -> None:
        context = PageContext(site)
        with frame(context, "chat", "Chat"), HtmlElement("div", None, "chat"):
            await _Conversations(context).build()
            with HtmlElement("div", None, "talk"):
                empty("Nobody to talk to yet" if not site.live.llms else "Choose an LLM", "Its conversations are kept.")

    @ui.page("/chat/{llm}")
    async def talk(llm: str) -> None:
        context = PageContext(site)
        with frame(context, "chat", f"Chat with {llm}"), HtmlElement("div", None, "chat"):
            if not is_address(llm_address(llm)):
                empty("There is no such LLM", "A name is made of a-z, 0-9 and -.")
                return
            await _Conversations(context).build()
            await _Conversation(context, llm).build()


class _Conversations:
    """The LLMs, and what was said last."""

    def __init__(self, context: PageContext) -> None:
        self._context = context

    async def build(self) -> None:
        """Show them, and follow what is said."""
        self._place = HtmlElement("nav", None, "conversations", aria_label="Conversations")
        await self._context.follow(self._refresh, {"message", "llm"}, every=1.0)

    async def _refresh(self) -> None:
        found = [view async for view in self._context.books.conversations(limit=_MAX_CONVERSATIONS_SHOWN)]
        self._place.clear()
        with self._place:
            HtmlElement("h2", "New conversation")
            with HtmlElement("ul", None, "partners"):
                for llm in self._context.site.live.llms:
                    with (
                        HtmlElement("li"),
                        HtmlElement("a", None, "button", href=self._context.url(f"/chat/{llm.name}")),
                    ):
                        status(llm.state, llm.name)
            mine = [(view, partner) for view in found if (partner := _partner(view.last))]
            if mine:
                HtmlElement("h2", "Earlier")
            for view, partner in mine:
                self._build(view, partner)

    def _build(self, view: ConversationView, llm: str) -> None:
        href = self._context.url(f"/chat/{llm}?{urlencode({'conversation': view.id})}")
        with HtmlElement("a", None, "conversation", href=href):
            HtmlElement("strong", llm)
            ago(view.last.sent_at)
            HtmlElement("span", view.last.content[:200])


class _Conversation:
    """One conversation."""

    def __init__(self, context: PageContext, llm: str) -> None:
        self._context = context
        self._llm = llm
        given = context.client.request.query_params.get("conversation", "")
        self._conversation = given or uuid7()
        self._begun = bool(given)
        self._shown: dict[str, HtmlElement] = {}
        self._writing = ""
        self._streamed: HtmlElement | None = None
        self._stream = Paced(self._show_stream, _STREAM_INTERVAL_SECONDS)

    async def build(self) -> None:
        """Show what was said, a place to write, and follow what is said."""
        with HtmlElement("div", None, "talk"):
            self._messages = HtmlElement(
                "div", None, "messages", data_follow="", tabindex="0", role="log", aria_label="Messages"
            )
            self._nothing = HtmlElement(
                "p", f"Write something to {self._llm}. It knows what was said before in this conversation."
            )
            self._nothing.classes("muted nothing")
            if self._context.visitor.may_change:
                with form(self._send, "compose") as self._form:
                    HtmlElement(
                        "textarea", name="content", rows="2", required=True, autofocus=True, aria_label="Message"
                    )
                    HtmlElement("button", "Send", "button primary")
        fits = self._fits
        await self._context.follow(self._refresh, {"message"}, every=0.1, fits=fits)
        self._context.hear({"writing"}, self._hear_writing)
        self._context.keep(self._stream.run())

    def _fits(self, told: Update) -> bool:
        return isinstance(told.data, dict) and told.data.get("conversation_id") == self._conversation

    async def _send(self, pairs: Pairs) -> None:
        content = dict(pairs).get("content", "").strip()
        if not content:
            return
        self._form.run_method("reset")
        if not self._begun:
            self._begun = True
            ui.run_javascript(f"fluffle.remember('?conversation={self._conversation}')")
        conversation, said_by = self._conversation, {"visitor": self._context.visitor.name}
        await self._context.act(
            lambda client: client.ask(
                self._llm, content, ANSWER_TIMEOUT_SECONDS, conversation_id=conversation, metadata=dict(said_by)
            )
        )

    async def _refresh(self) -> None:
        if not self._begun:
            return
        reader, limit = self._context.books, MAX_MESSAGES_SHOWN
        found = [view async for view in reader.messages(conversation_id=self._conversation, limit=limit)]
        await prepared(*(view.content for view in found))
        new = [view for view in reversed(found) if view.id not in self._shown]
        if any(view.sender == llm_address(self._llm) for view in new):
            self._end_stream()
        with self._messages:
            for view in new:
                self._shown[view.id] = self._build(view)
        self._nothing.set_visibility(not self._shown)

    def _build(self, view: MessageView) -> HtmlElement:
        is_llm = view.sender.startswith("llm.")
        name = view.sender.partition(".")[2] or view.sender
        who = name if is_llm else str(view.metadata.get("visitor") or name)
        with HtmlElement("article", None, "message", data_from="llm" if is_llm else "person") as made:
            with HtmlElement("header", None, "said-by"):
                HtmlElement("strong", who)
                ago(view.sent_at)
            failed = bool(view.metadata.get("error")) or not view.delivered
            rendered(markdown(view.content), "prose error" if failed else "prose")
            if not view.delivered:
                HtmlElement("small", "not delivered: nobody has this address")
        return made

    # -- as it comes -----------------------------------------------------------------------------------------------

    def _hear_writing(self, told: Update) -> None:
        if self._fits(told) and told.what == self._llm:
            self._writing += str(told.data.get("text") or "")
            self._stream.nudge()

    async def _show_stream(self) -> None:
        if not self._writing:
            return
        if self._streamed is None:
            with self._messages, HtmlElement("article", None, "message writing", data_from="llm") as self._streamed:
                with HtmlElement("header", None, "said-by"):
                    HtmlElement("strong", self._llm)
                    HtmlElement("span", "writes", "muted")
                self._text = rendered("", "prose")
        html = await rendered_apart(self._writing)
        if self._streamed is not None:  # it has not ended meanwhile
            self._text.set_content(html)

    def _end_stream(self) -> None:
        self._writing = ""
        if self._streamed is not None:
            self._streamed.delete()
            self._streamed = None


def _partner(last: MessageView) -> str | None:
    """The LLM of a conversation with a person; None for what LLMs say among themselves."""
    ends = [address.partition(".") for address in (last.sender, last.receiver)]
    llms = [name for kind, _, name in ends if kind == "llm"]
    return llms[0] if len(llms) == 1 else None
