"""Conversations with LLMs. The text of an LLM appears while it writes."""

from urllib.parse import urlencode

from nicegui import ui

from broker.ids import uuid7
from broker.protocol.chat import is_address
from broker.protocol.topology import llm_address
from broker.protocol.views import ConversationView, MessageView
from fluffle.web.components import HtmlElement, Pairs, ago, empty, form, rendered, status
from fluffle.web.layout import frame
from fluffle.web.live import RateLimitedRefresh, Update
from fluffle.web.markdown import markdown, prepared, render_uncached
from fluffle.web.page_context import PageContext, SharedServices

MAX_MESSAGES_SHOWN = 500  # of a conversation
ANSWER_TIMEOUT_SECONDS = 600.0  # a later answer arrives in the mailbox of the user who runs the web page

_MAX_CONVERSATIONS_SHOWN = 30
_STREAM_INTERVAL_SECONDS = 0.1


def add(site: SharedServices) -> None:
    """Add the pages: the list of LLMs, and a conversation."""

    @ui.page("/chat")
    async def chat() -> None:
        context = PageContext(site)
        with frame(context, "chat", "Chat"), HtmlElement("div", None, "chat"):
            await _Conversations(context).follow()
            with HtmlElement("div", None, "talk"):
                empty("No LLMs yet" if not site.live.llms else "Choose an LLM", "Conversations are kept.")

    @ui.page("/chat/{llm}")
    async def talk(llm: str) -> None:
        context = PageContext(site)
        with frame(context, "chat", f"Chat with {llm}"), HtmlElement("div", None, "chat"):
            if not is_address(llm_address(llm)):
                empty("No such LLM", "A name has 1-63 characters: a-z, 0-9 and -.")
                return
            await _Conversations(context).follow()
            await _Conversation(context, llm).follow()


class _Conversations:
    """The list of LLMs and of past conversations."""

    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._place = HtmlElement("nav", None, "conversations", aria_label="Conversations")

    async def follow(self) -> None:
        """Fill the lists, and update them while the page is open."""
        await self._context.follow(self._refresh, {"message", "llm"}, every=1.0)

    async def _refresh(self) -> None:
        found = [view async for view in self._context.reader.conversations(limit=_MAX_CONVERSATIONS_SHOWN)]
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
    """One conversation with an LLM, and a form to write to it."""

    def __init__(self, context: PageContext, llm: str) -> None:
        self._context = context
        self._llm = llm
        given = context.client.request.query_params.get("conversation", "")
        self._conversation = given or uuid7()
        self._begun = bool(given)
        self._shown: dict[str, HtmlElement] = {}
        self._writing = ""
        self._streamed: HtmlElement | None = None
        self._streamed_text: ui.html | None = None
        self._stream = RateLimitedRefresh(self._show_stream, _STREAM_INTERVAL_SECONDS)
        self._form: HtmlElement | None = None
        with HtmlElement("div", None, "talk"):
            self._messages = HtmlElement(
                "div", None, "messages", data_follow="", tabindex="0", role="log", aria_label="Messages"
            )
            self._nothing = HtmlElement(
                "p", f"Write a message to {self._llm}. The LLM knows the earlier messages of this conversation."
            )
            self._nothing.classes("muted nothing")
            if self._context.visitor.may_change:
                with form(self._send, "compose") as self._form:
                    HtmlElement(
                        "textarea", name="content", rows="2", required=True, autofocus=True, aria_label="Message"
                    )
                    HtmlElement("button", "Send", "button primary")

    async def follow(self) -> None:
        """Show the messages, and update them while the page is open."""
        await self._context.follow(self._refresh, {"message"}, every=0.1, matches=self._is_here)
        self._context.listen({"writing"}, self._on_writing)
        self._context.run_while_open(self._stream.run())

    def _is_here(self, update: Update) -> bool:
        return isinstance(update.data, dict) and update.data.get("conversation_id") == self._conversation

    async def _send(self, pairs: Pairs) -> None:
        content = dict(pairs).get("content", "").strip()
        if not content:
            return
        if self._form is not None:
            self._form.run_method("reset")
        if not self._begun:
            self._begun = True
            ui.run_javascript(f"fluffle.remember('?conversation={self._conversation}')")
        conversation, metadata = self._conversation, {"visitor": self._context.visitor.name}
        await self._context.act(
            lambda client: client.ask(
                self._llm, content, ANSWER_TIMEOUT_SECONDS, conversation_id=conversation, metadata=dict(metadata)
            )
        )

    async def _refresh(self) -> None:
        if not self._begun:
            return
        reader, limit = self._context.reader, MAX_MESSAGES_SHOWN
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
                HtmlElement("small", "not delivered: no LLM or person has this address")
        return made

    # -- streaming ------------------------------------------------------------------------------------------------

    def _on_writing(self, update: Update) -> None:
        if self._is_here(update) and update.what == self._llm:
            self._writing += str(update.data.get("text") or "")
            self._stream.nudge()

    async def _show_stream(self) -> None:
        if not self._writing:
            return
        if self._streamed is None:
            with self._messages, HtmlElement("article", None, "message writing", data_from="llm") as self._streamed:
                with HtmlElement("header", None, "said-by"):
                    HtmlElement("strong", self._llm)
                    HtmlElement("span", "is writing", "muted")
                self._streamed_text = rendered("", "prose")
        html = await render_uncached(self._writing)
        if self._streamed is not None and self._streamed_text is not None:  # the answer has not ended meanwhile
            self._streamed_text.set_content(html)

    def _end_stream(self) -> None:
        self._writing = ""
        if self._streamed is not None:
            self._streamed.delete()
            self._streamed = None


def _partner(last: MessageView) -> str | None:
    """Return the LLM of a conversation with a person; None for a conversation between LLMs."""
    ends = [address.partition(".") for address in (last.sender, last.receiver)]
    llms = [name for kind, _, name in ends if kind == "llm"]
    return llms[0] if len(llms) == 1 else None
