"""What is read from the text of a model or command: its answer without reasoning, its JSON, and its plain text."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.models.json_text import json_values
from workers.models.provider.reasoning import ReasoningFilter, without_reasoning
from workers.models.terminal_text import TerminalFilter, terminal_text


def pieces_of(parts: list[str]) -> st.SearchStrategy[list[str]]:
    """Texts made of these parts, cut at any place."""

    def cut(text: str) -> st.SearchStrategy[list[str]]:
        places = st.lists(st.integers(0, len(text)), max_size=8).map(sorted)
        return places.map(lambda at: [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])

    return st.lists(st.sampled_from(parts), max_size=12).map("".join).flatmap(cut)


# -- reasoning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nhmm\n</think>\n\nanswer", "answer"),
        ("\n<think>hmm</think>answer\n", "answer\n"),
        ("<thinking>hmm</thinking>\n\nanswer", "answer"),
        ("<THINK>hmm</Think> answer", "answer"),
        ("<think>a</think><think>b</think>answer", "answer"),
        ("<think>hmm</think>", ""),
        ("hmm so I think\n</think>\n\nanswer", "answer"),
        ("</think>\n\nanswer", "answer"),
        ("hmm\r\n</think>\r\n\r\nanswer", "answer"),
    ],
)
def test_reasoning_before_an_answer_is_no_part_of_it(text: str, answer: str) -> None:
    assert without_reasoning(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "answer",
        "  answer",
        "",
        "Models write <think>hmm</think> before they answer.",
        "Write\n\n<think>\nhmm\n</think>\n\nbefore the answer.",
        "A model ends its reasoning with </think> and answers.",
        "For example:\n```\nhmm\n</think>\nanswer\n```\n",
        "<think> is a tag that is never closed here",
        "<thin",
        "<thinker>x</thinker>",
    ],
)
def test_a_tag_elsewhere_belongs_to_the_answer(text: str) -> None:
    assert without_reasoning(text) == text


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces_of(["<think>", "</think>", "<thinking>", "</thinking>", "\n", " ", "hmm", "<", "answer"]))
def test_reasoning_is_filtered_alike_however_the_text_is_cut(pieces: list[str]) -> None:
    whole, cut = ReasoningFilter(), ReasoningFilter()
    expected = whole.feed("".join(pieces)) + whole.close()
    assert "".join(map(cut.feed, pieces)) + cut.close() == expected


def test_an_answer_is_passed_on_as_it_comes_and_its_reasoning_is_not() -> None:
    reader = ReasoningFilter()
    pieces = ["\n<thi", "nk>let me", " see</th", "ink>\n", "\nThe ", "answer"]
    assert [reader.feed(piece) for piece in pieces] == ["", "", "", "", "The ", "answer"]


def test_long_reasoning_in_small_pieces_takes_no_time() -> None:
    reader = ReasoningFilter()
    started = time.process_time()
    for piece in ["<think>", *["hmm "] * 200_000, "</think>", "answer"]:
        reader.feed(piece)
    assert time.process_time() - started < 5


# -- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '\ufeff{"a": 1}',
        '```json\r\n{"a": 1}\r\n```\r\n',
        '~~~json\n{"a": 1}\n~~~',
        '```JSON5\n{"a": 1}\n```',
        '````\n{"a": 1}\n````',
        '```json\n{"a": 1}```',
        '```json\n{"a": 1}',
        'Sure! Here it is:\n\n  ```json\n  {"a": 1}\n  ```\n\nAnything else?',
        'Sure! Here it is:\n{"a": 1}\n',
        '<think>\nlet me see {"a": 2}\n</think>\n{"a": 1}\n',
        '<think>{"a": 2}</think>\n```json\n{"a": 1}\n```',
    ],
)
def test_the_json_of_a_text_is_found_where_it_is_the_only_one(text: str) -> None:
    assert next(json_values(text)) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        'Input:\n```json\n{"x": 0}\n```\nAnswer:\n```json\n{"a": 1}\n```',
        '{"type": "log"}\n{"a": 1}\n',
        'It is {"a": 1}\nor rather\n{"a": 2}',
        'It is\n{"a": 1}\nas far as I know.',
        "[" * 100_000,
    ],
)
def test_json_that_could_be_meant_otherwise_is_not_guessed(text: str) -> None:
    assert list(json_values(text)) == []


def test_a_text_full_of_fences_is_read_at_once() -> None:
    started = time.process_time()
    assert list(json_values("```a\n" * 200_000)) == []
    assert time.process_time() - started < 5


# -- terminals -----------------------------------------------------------------------------------------------------

ANSWER = '{"a": 1}'


@pytest.mark.parametrize(
    "text",
    [
        f"\x1b]0;OpenCode\x07{ANSWER}",
        f"\x1b]0;OpenCode\x1b\\{ANSWER}",
        f"\x1b[1m{ANSWER}\x1b[0m",
        f"\x1b[?2004h{ANSWER}\x1b[?2004l",
        f"10%\r50%\r100%\r{ANSWER}",
        f"loading\r\x1b[K{ANSWER}",
        f"|\b/\b-\b{ANSWER}",
        f"\x1b(B\x1b7{ANSWER}\x1b8\x1b=",
        f"\ufeff{ANSWER}",
        f"\x1b[0m\ufeff{ANSWER}\x00\x07",
        f"\x9b1m{ANSWER}\x9b0m",
        '{"a":\x1b]8;;https://example.com\x07 1\x1b]8;;\x07}',
    ],
)
def test_what_is_for_a_terminal_is_no_part_of_the_text(text: str) -> None:
    assert terminal_text(text) == ANSWER


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("one\r\r\ntwo", "one\ntwo"),
        ("50%\r100%\r\ndone", "100%\ndone"),
        ("b\bbo\bol\bld\bd", "bold"),
        ("\b\bx", "x"),
        ("\x1b]0;never ended, \x1b[1mand more", "0;never ended, and more"),
        ("tab\tand\x0cpage", "tab\tand\x0cpage"),
        ("caf\u00e9 \U0001f407 \u009c", "caf\u00e9 \U0001f407 \u009c"),
    ],
)
def test_lines_are_left_as_a_terminal_shows_them_in_the_end(text: str, plain: str) -> None:
    assert terminal_text(text) == plain


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="a1 {}[];m\n\t\u00e9\u2028\U0001f407"))
def test_a_text_without_control_characters_stays_as_it_is(text: str) -> None:
    assert terminal_text(text) == text
    reader = TerminalFilter()
    assert reader.feed(text) + reader.close() == text


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="\x1b[]0;1mK\x07\\\r\n\b(Bx\x9b\x9d\ufeff"))
def test_no_control_character_is_left(text: str) -> None:
    reader = TerminalFilter()
    for plain in (terminal_text(text), reader.feed(text) + reader.close()):
        assert not set(plain) & set("\x1b\x07\r\b\x9b\x9d")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces_of(["\x1b", "[1m", "\x1b[", "]0;", "title", "\x07", "\x1b\\", "\r", "\n", "\b", "x", "\ufeff", "(B", "\x9b"])
)
def test_a_text_for_a_terminal_is_shown_alike_however_it_is_cut(pieces: list[str]) -> None:
    whole, cut = TerminalFilter(), TerminalFilter()
    expected = whole.feed("".join(pieces)) + whole.close()
    assert "".join(map(cut.feed, pieces)) + cut.close() == expected


def test_a_sequence_that_is_cut_in_two_is_not_shown() -> None:
    reader = TerminalFilter()
    assert [reader.feed(piece) for piece in ("one \x1b[3", "1mtwo\x1b", "]0;ti", "tle\x07 three\r", "\nfour")] == [
        "one ",
        "two",
        "",
        " three",
        "\nfour",
    ]
