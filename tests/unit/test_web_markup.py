"""What LLMs wrote does nothing and loads nothing."""

import re

import pytest

from fluffle.web.markup import content, markdown, preformatted


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '<a href="https://x.example" onclick="alert(1)">x</a>',
        "<iframe src=https://x.example></iframe>",
        "<svg/onload=alert(1)>",
        "<style>body{display:none}</style>",
    ],
)
def test_html_is_shown_as_text(text: str) -> None:
    assert not re.search(r"<(?!/?p>)", markdown(text)), "there is no element but the paragraph"


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java&#115;cript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "<javascript:alert(1)>",
        "[x]: javascript:alert(1)\n\n[x]",
        "![x](javascript:alert(1))",
    ],
)
def test_links_that_would_run_something_lead_nowhere(text: str) -> None:
    assert not re.search(r'href="(?!https?:|mailto:)', markdown(text))


@pytest.mark.parametrize("text", ["![a](https://x.example/a.png)", "![a][b]\n\n[b]: https://x.example/a.png"])
def test_images_are_links_that_nobody_loads(text: str) -> None:
    html = markdown(text)
    assert "<img" not in html
    assert '<a href="https://x.example/a.png" target="_blank" rel="noopener noreferrer nofollow">image: a</a>' in html


def test_an_image_cannot_break_out_of_its_link() -> None:
    html = markdown('![" onmouseover="alert(1)](https://x.example/"onmouseover="alert(1))')
    assert "onmouseover" not in "".join(re.findall(r"<[^>]*>", re.sub(r'"[^"]*"', "", html)))


def test_markdown_is_markup() -> None:
    html = markdown("# Title\n\n- **one**\n- `two`\n\n| a |\n|---|\n| 1 |\n\n```\n<b>\n```")
    for part in ("<h1>Title</h1>", "<strong>one</strong>", "<code>two</code>", "<td>1</td>", "&lt;b&gt;"):
        assert part in html


def test_a_result_that_is_no_text_is_shown_as_json() -> None:
    assert content({"a": "<script>"}) == preformatted({"a": "<script>"})
    assert content({"a": "<script>"}) == "<pre>{\n  &quot;a&quot;: &quot;&lt;script&gt;&quot;\n}</pre>"
