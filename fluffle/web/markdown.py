"""Markdown of people and LLMs as HTML without scripts, styles and external content.

Hostile Markdown can take seconds to render: `[` a hundred thousand times. So only short and simple texts are rendered
in this process. A helper process renders the others. Until it has, or if it takes too long, the plain text is shown.
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
    """Render a link instead of an image: loading the image would tell its server who reads the page."""
    image = tokens[index]
    text = escape(image.content or str(image.attrs.get("src", "")))
    return f'<a href="{escape(str(image.attrs.get("src", "")))}">image: {text}</a>'


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_MARKDOWN.add_render_rule("image", _image_as_link)

_helpers = ProcessPool()
_rendered: dict[bytes, str] = {}  # by the digest of the text, the oldest first
_rendering: dict[bytes, asyncio.Task[None]] = {}


def markdown(text: str) -> str:
    """Return Markdown as HTML of the tags above: no images, no styles, only links to http, https and mailto.

    A text that is not simple and was not `prepared` is returned as plain text.
    """
    if _is_simple(text):
        return render(text)
    return _rendered.get(_digest(text)) or _plain(text[:MAX_CHARACTERS_SHOWN])


async def prepared(*values: Any) -> None:
    """Render texts for `markdown` and `content`, in at most RENDER_TIMEOUT_SECONDS."""
    texts = {_digest(text): text for text in values if isinstance(text, str) and not _is_simple(text)}
    missing = texts.keys() - _rendered.keys()
    for digest in missing - _rendering.keys():
        _rendering[digest] = asyncio.create_task(_prepare(digest, texts[digest]))
    if missing:
        await asyncio.wait([_rendering[digest] for digest in missing], timeout=RENDER_TIMEOUT_SECONDS)


async def render_uncached(text: str) -> str:
    """Return Markdown as HTML without keeping it, for a text that is still being written."""
    if _is_simple(text):
        return render(text)
    try:
        beginning = text[:MAX_CHARACTERS_RENDERED]
        begun: str = await _helpers.call("fluffle.web.markdown:render", beginning, seconds=CPU_SECONDS)
    except (HelperError, OSError):
        return _plain(text[:MAX_CHARACTERS_SHOWN])
    return begun + _plain(text[MAX_CHARACTERS_RENDERED:MAX_CHARACTERS_SHOWN])


def render(text: str) -> str:
    """Return Markdown as HTML. This may take long: call it in a helper process."""
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
    """Return a value as preformatted HTML: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return _plain(text[:MAX_CHARACTERS_SHOWN])


def content(value: Any) -> str:
    """Return a result or an input as HTML: text as Markdown, anything else as JSON."""
    return markdown(value) if isinstance(value, str) else preformatted(value)


async def _prepare(digest: bytes, text: str) -> None:
    try:
        _rendered[digest] = await render_uncached(text)
    finally:
        del _rendering[digest]
    while len(_rendered) > _MAX_TEXTS_KEPT:
        del _rendered[next(iter(_rendered))]


def _is_simple(text: str) -> bool:
    """Return whether a text renders in negligible time."""
    return len(text) <= _MAX_SIMPLE_CHARACTERS and sum(map(text.count, _MARKS)) <= _MAX_SIMPLE_MARKS


def _plain(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text else ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
