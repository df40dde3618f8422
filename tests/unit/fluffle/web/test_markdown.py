"""What LLMs wrote does nothing and loads nothing."""

import re

import pytest

from fluffle.web import markdown as markup
from fluffle.web.markdown import content, markdown, preformatted, prepared, render_uncached


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
def test_links_that_would_run_scripts_are_removed(text: str) -> None:
    assert not re.search(r'href="(?!https?:|mailto:)', markdown(text))


@pytest.mark.parametrize("text", ["![a](https://x.example/a.png)", "![a][b]\n\n[b]: https://x.example/a.png"])
def test_images_become_links(text: str) -> None:
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


def test_a_result_that_is_not_text_is_shown_as_json() -> None:
    assert content({"a": "<script>"}) == preformatted({"a": "<script>"})
    assert content({"a": "<script>"}) == "<pre>{\n  &quot;a&quot;: &quot;&lt;script&gt;&quot;\n}</pre>"


BRACKETS = "[" * 100_000


def test_a_text_that_takes_long_is_never_rendered_by_the_page_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "render", lambda text: pytest.fail("it is rendered at once"))
    assert markdown(BRACKETS) == f"<pre>{BRACKETS}</pre>"
    assert content(BRACKETS[:1000]) == f"<pre>{BRACKETS[:1000]}</pre>"
    assert markdown("word " * 1000).startswith("<pre>word ")


async def test_a_text_that_takes_too_long_is_shown_unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "CPU_SECONDS", 0.01)
    assert await render_uncached(BRACKETS) == f"<pre>{BRACKETS}</pre>"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the page waits for its texts."""
    monkeypatch.setattr(markup, "RENDER_TIMEOUT_SECONDS", 60)


@pytest.mark.usefixtures("patient")
async def test_a_long_text_is_rendered_in_a_helper_process() -> None:
    text = "# Title\n\n" + "a **word** " * 500
    assert markdown(text).startswith("<pre># Title")
    await prepared(text, None, {"a": 1})
    assert markdown(text).startswith("<h1>Title</h1>")
    assert "<strong>word</strong>" in markdown(text)


async def test_html_is_text_in_the_helper_process_too() -> None:
    html = await render_uncached("<script>alert(1)</script> " * 200 + "x" * 20_000 + "<script>alert(2)</script>")
    assert not re.search(r"<(?!/?p>|/?pre>)", html)


async def test_only_the_first_20_000_characters_are_rendered() -> None:
    html = await render_uncached("*a* " * 5_000 + "*b*")
    assert html.endswith("<em>a</em></p>\n<pre>*b*</pre>")


@pytest.mark.usefixtures("patient")
async def test_only_the_last_texts_are_kept() -> None:
    await prepared(*(f"{number} " + "word " * 400 for number in range(120)))
    assert len(markup._rendered) == 100
    assert not markup._rendering


@pytest.mark.parametrize("target", ["/login?token=x", "//evil.example", "tasks", "?a=1", "#x", ""])
def test_links_without_a_scheme_are_removed(target: str) -> None:
    assert "href" not in markdown(f"[x]({target})")
