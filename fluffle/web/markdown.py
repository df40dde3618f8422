"""What people and LLMs wrote, as HTML that does nothing and loads nothing.

Markdown can be made to take seconds: `[` a hundred thousand times. So only short and plain texts are rendered at once;
any other is rendered by a helper process, and until it is, or where that takes too long, shown as the text that it is.
"""

import asyncio
import hashlib
import json
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from broker.errors import HelperError
from broker.untrusted.process_pool import ProcessPool

MAX_CHARACTERS_SHOWN = 200_000  # `fluffle task show` prints the whole text
MAX_CHARACTERS_RENDERED = 20_000  # the rest of a text is shown unrendered
CPU_SECONDS = 1.0  # for rendering one text
RENDER_TIMEOUT_SECONDS = 2.0  # that a page waits for its texts
_MARKS = "[]*_~`|<&!\\"  # characters that have a meaning in Markdown
_MAX_SIMPLE_CHARACTERS, _MAX_SIMPLE_MARKS = 2_000, 50  # of a text that is rendered in this process
_MAX_TEXTS_KEPT = 100

_TAGS = {
    *("a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"),
    *("s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
_SCHEMES = {"http", "https", "mailto"}


def _image_as_link(self: RendererHTML, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    """An image is loaded from somewhere, and that tells somebody who reads: a link in its place."""
    image = tokens[index]
    text = escape(image.content or str(image.attrs.get("src", "")))
    return f'<a href="{escape(str(image.attrs.get("src", "")))}">image: {text}</a>'


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_MARKDOWN.add_render_rule("image", _image_as_link)

_helpers = ProcessPool()
_rendered: dict[bytes, str] = {}  # by the digest of the text, the oldest first
_rendering: dict[bytes, asyncio.Task[None]] = {}


def markdown(text: str) -> str:
    """Markdown as HTML of the tags above: no images, no styles, links to http, https and mailto alone.

    A text that is neither short nor `prepared` is shown as it is.
    """
    if _is_plain(text):
        return render(text)
    return _rendered.get(_digest(text)) or _as_it_is(text[:MAX_CHARACTERS_SHOWN])


async def prepared(*values: Any) -> None:
    """Let these texts be rendered, for `markdown` and `content`. It takes two seconds at most."""
    texts = {_digest(text): text for text in values if isinstance(text, str) and not _is_plain(text)}
    missing = texts.keys() - _rendered.keys()
    for digest in missing - _rendering.keys():
        _rendering[digest] = asyncio.create_task(_prepare(digest, texts[digest]))
    if missing:
        await asyncio.wait([_rendering[digest] for digest in missing], timeout=RENDER_TIMEOUT_SECONDS)


async def rendered_apart(text: str) -> str:
    """Markdown that is shown only once, as what is still being written."""
    if _is_plain(text):
        return render(text)
    try:
        beginning = text[:MAX_CHARACTERS_RENDERED]
        begun: str = await _helpers.call("fluffle.web.markdown:render", beginning, seconds=CPU_SECONDS)
    except (HelperError, OSError):
        return _as_it_is(text[:MAX_CHARACTERS_SHOWN])
    return begun + _as_it_is(text[MAX_CHARACTERS_RENDERED:MAX_CHARACTERS_SHOWN])


def render(text: str) -> str:
    """Markdown as HTML. It may take long: for a helper process."""
    return nh3.clean(
        _MARKDOWN.render(text),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes=_SCHEMES,
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def preformatted(value: Any) -> str:
    """A value as it is, JSON but for text, as HTML."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return _as_it_is(text[:MAX_CHARACTERS_SHOWN])


def content(value: Any) -> str:
    """A result or an input as HTML: text as Markdown, anything else as JSON."""
    return markdown(value) if isinstance(value, str) else preformatted(value)


async def _prepare(digest: bytes, text: str) -> None:
    try:
        _rendered[digest] = await rendered_apart(text)
    finally:
        del _rendering[digest]
    while len(_rendered) > _MAX_TEXTS_KEPT:
        del _rendered[next(iter(_rendered))]


def _is_plain(text: str) -> bool:
    """Whether rendering takes no time to speak of."""
    return len(text) <= _MAX_SIMPLE_CHARACTERS and sum(map(text.count, _MARKS)) <= _MAX_SIMPLE_MARKS


def _as_it_is(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text else ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
