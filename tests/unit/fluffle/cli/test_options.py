"""The kinds of values that options take."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from fluffle.cli.options import (
    JSON,
    Duration,
    Moment,
    Names,
    Nothing,
    OrNothing,
    Skills,
    Weights,
    Whole,
    given,
    pairs,
    text_of,
)


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("5 min", 300), ("1.5h", 5400), ("1d", 86_400)]
)
def test_a_duration_is_in_seconds(typed: str, seconds: float) -> None:
    assert Duration().convert(typed, None, None) == seconds


@pytest.mark.parametrize("typed", ["", "soon", "-5", "5y", "h"])
def test_an_invalid_duration_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="must be a duration such as"):
        Duration().convert(typed, None, None)


def test_a_time_has_an_offset_or_is_local() -> None:
    moment = Moment(past=False)
    assert moment.convert("2026-12-01T09:00+02:00", None, None) == datetime(2026, 12, 1, 7, tzinfo=UTC)
    local = moment.convert("2026-12-01T09:00", None, None)
    assert local.astimezone().replace(tzinfo=None) == datetime(2026, 12, 1, 9)  # noqa: DTZ001 - local on purpose


def test_a_duration_is_added_to_now_or_subtracted() -> None:
    now = datetime.now(UTC)
    due = Moment(past=False).convert("2h", None, None)
    since = Moment(past=True).convert("24h", None, None)
    assert timedelta(0) <= due - (now + timedelta(hours=2)) < timedelta(minutes=1)
    assert timedelta(0) <= since - (now - timedelta(hours=24)) < timedelta(minutes=1)


@pytest.mark.parametrize("typed", ["tomorrow", "2026-13-01", "0001-01-01T00:00+23:00"])
def test_an_invalid_time_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="must be a time such as"):
        Moment(past=False).convert(typed, None, None)


def test_eight_digits_are_a_date() -> None:
    due = Moment(past=False).convert("20261201", None, None)
    assert due.astimezone().replace(tzinfo=None) == datetime(2026, 12, 1)  # noqa: DTZ001 - local on purpose


@pytest.mark.parametrize("typed", ["3600", "1.5", "99999"])
def test_a_duration_from_now_needs_a_unit(typed: str) -> None:
    with pytest.raises(
        click.BadParameter, match=f"'{typed}' has no unit: write {typed}s for seconds or {typed}h for hours"
    ):
        Moment(past=False).convert(typed, None, None)


@pytest.mark.parametrize("typed", ["9999999d", "999999999999999999d", "9" * 400 + "s"])
@pytest.mark.parametrize("kind", [Moment(past=False), Moment(past=True), Duration()])
def test_a_duration_over_a_century_is_refused(kind: click.ParamType[object], typed: str) -> None:
    with pytest.raises(click.BadParameter, match="is longer than 100 years"):
        kind.convert(typed, None, None)


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="nested too deeply"):
        JSON().convert("[" * 100_000, None, None)


def test_the_text_of_a_file_has_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfText")
    assert text_of(str(tmp_path / "text")) == "Text"


def test_names_are_comma_separated() -> None:
    assert Names().convert("python, review,,x", None, None) == ["python", "review", "x"]


def test_json_is_parsed_or_refused() -> None:
    assert JSON().convert('{"a": [1]}', None, None) == {"a": [1]}
    with pytest.raises(click.BadParameter, match="not JSON"):
        JSON().convert("{a", None, None)


def test_the_word_removes_a_value() -> None:
    kind = OrNothing(Skills(), "auto")
    assert kind.convert("auto", None, None) is Nothing.NOTHING
    assert kind.convert("python=0.9,review", None, None) == {"python": 0.9, "review": 1}
    with pytest.raises(click.BadParameter, match="is not a valid skill: use lower case"):
        kind.convert("Auto", None, None)


def test_options_that_are_not_given_are_left_out_and_removed_values_are_none() -> None:
    assert given({"due": Nothing.NOTHING, "priority": None, "timeout": 0.0}) == {"due": None, "timeout": 0.0}


def test_pairs_have_an_equals_sign() -> None:
    assert pairs(("a=b=c", "d=")) == {"a": "b=c", "d": ""}
    with pytest.raises(click.BadParameter, match="'a' must be KEY=VALUE"):
        pairs(("a",))


def test_weights_are_numbers_by_name() -> None:
    assert Weights().convert("ada=2,bob-1=0.5", None, None) == {"ada": 2.0, "bob-1": 0.5}


@pytest.mark.parametrize("text", ["ada", "ada=", "ada=x", "=2", "ada=1;bob=2", "ada=1,,bob=2", ""])
def test_an_invalid_weight_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="must be names and numbers such as ada=2"):
        Weights().convert(text, None, None)


def test_the_error_for_an_invalid_whole_number_says_so() -> None:
    with pytest.raises(click.BadParameter, match=r"^'high' is not a valid integer\.$"):
        Whole(0, 9)("high")
    with pytest.raises(click.BadParameter, match="12 is not in the range 0<=x<=9"):
        Whole(0, 9)("12")
