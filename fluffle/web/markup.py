"""What people and LLMs wrote, as HTML that does nothing and loads nothing."""

import json
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

LONGEST = 200_000  # characters that are shown; the rest is in `fluffle task show`

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


def markdown(text: str) -> str:
    """Markdown as HTML of the tags above: no images, no styles, links to http, https and mailto alone."""
    return nh3.clean(
        _MARKDOWN.render(text[:LONGEST]),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def preformatted(value: Any) -> str:
    """A value as it is, JSON but for text, as HTML."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return f"<pre>{escape(text[:LONGEST])}</pre>"


def content(value: Any) -> str:
    """A result or an input as HTML: text as Markdown, anything else as JSON."""
    return markdown(value) if isinstance(value, str) else preformatted(value)
