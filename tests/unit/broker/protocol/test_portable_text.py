"""Conversion to text that UTF-8 can encode."""

import pytest

from broker.protocol.portable_text import ends_within_a_character, is_portable, on_one_line, portable, printed


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        ("plain", "plain"),
        ("Ärger \N{GRINNING FACE}", "Ärger \N{GRINNING FACE}"),
        ("a\ud83d\ude00b", "a\N{GRINNING FACE}b"),
        ("\ud83d\ud83d\ude00", "\ufffd\N{GRINNING FACE}"),
        ("\ud83dx\ude00", "\ufffdx\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
    ],
)
def test_pairs_are_joined_and_lone_surrogates_replaced(text: str, carried: str) -> None:
    assert portable(text) == carried
    assert is_portable(text) == (text == carried)
    carried.encode()


def test_a_text_may_end_with_half_of_a_character() -> None:
    assert ends_within_a_character("a\ud83d")
    assert not any(map(ends_within_a_character, ("", "a", "a\ude00", "\N{GRINNING FACE}")))


def test_an_unprintable_value_is_shown_as_its_type() -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError

    assert printed(Silent()) == "Silent"
    assert printed(ValueError("half \ud83d")) == "half \ufffd"


def test_a_line_for_the_log_is_short_and_has_no_terminal_codes() -> None:
    assert on_one_line("two\n\tlines \x1b[31m") == "two lines \ufffd[31m"
    assert len(on_one_line("word " * 1000)) == 300
    assert on_one_line("x" * 300) == "x" * 300
    assert on_one_line("x" * 301) == "x" * 299 + "…"
