"""How the commands print."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from fluffle.presentation import output
from fluffle.presentation.durations import duration


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output counts as a terminal, 60 characters wide."""
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1 s"),
        (4.25, "4.2 s"),
        (9.99, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (7800, "2 h 10 min"),
        (356_400, "4 d 3 h"),
    ],
)
def test_a_duration_is_shown_in_its_largest_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_time_in_a_pipe_is_iso_8601_in_utc() -> None:
    at = datetime.fromisoformat("2026-12-01T10:00:00.1234+01:00")
    assert output.moment(at) == "2026-12-01T09:00:00.123Z"


@pytest.mark.usefixtures("terminal")
def test_a_time_on_a_terminal_is_relative_to_now() -> None:
    now = datetime.now(UTC)
    assert output.moment(now - timedelta(minutes=3, seconds=20)) == "3 min ago"
    assert output.moment(now + timedelta(hours=2, seconds=30)) == "in 2 h"


def test_printed_text_cannot_move_the_cursor_or_hide() -> None:
    hostile = "\x1b[2Jgone\x1b]0;title\x07 \u202eback\u2028 \x9b31mred\r\nnext\tcolumn\x00"
    assert output.plain(hostile) == "[2Jgone]0;title back 31mred\nnext\tcolumn"


def test_a_cell_is_one_line() -> None:
    assert output.cell("two\nlines\tand  more ") == "two lines and more"


def test_a_table_in_a_pipe_is_whole_and_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("ID", "TEXT"), [("t-1", "long " * 100), ("t-2", None)])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "t-1\t" + ("long " * 100).strip()
    assert second == "t-2\t"


@pytest.mark.usefixtures("terminal")
def test_a_table_on_a_terminal_has_headings_colours_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("ID", "STATUS", "TEXT"), [("t-1", "failed", "long " * 100)])
    printed = capsys.readouterr().out
    heading, row = printed.splitlines()
    assert "ID" in heading
    assert "\x1b[31mfailed" in row
    assert row.rstrip().endswith("…")


@pytest.mark.usefixtures("terminal")
def test_a_narrow_terminal_shows_fewer_columns_and_whole_ids(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task_id = "01a22538-cf76-767b-a12a-8303b9ea9c47"
    headings, row = ("ID", "STATUS", "PRIORITY", "TEXT"), (task_id, "completed", 4, "long " * 100)
    monkeypatch.delenv("FORCE_COLOR")

    def printed(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        output.print_table(headings, [row], spare=("PRIORITY", "STATUS"))
        heading, line = capsys.readouterr().out.splitlines()
        assert line.startswith(task_id)
        assert line.rstrip().endswith("…")
        return heading.split()

    assert printed(90) == ["ID", "STATUS", "PRIORITY", "TEXT"]
    assert printed(70) == ["ID", "STATUS", "TEXT"]
    assert printed(60) == ["ID", "TEXT"]
    assert printed(30) == ["ID", "TEXT"]


@pytest.mark.usefixtures("terminal")
def test_figures_are_never_shortened(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    output.print_table(("LLM", "ATTEMPTS", "FAILED", "BUSY"), [("atlas", 1234567, 7654321, "2 h 10 min")])
    assert "1234567" in (printed := capsys.readouterr().out)
    assert "2 h 10 min" in printed


@pytest.mark.usefixtures("terminal")
def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    output.print_table(("ID", "STATUS"), [("t-1", "failed")])
    output.print_fields([("Status", "failed")])
    assert "\x1b[31m" not in capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
def test_an_empty_table_on_a_terminal_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("ID",), [], empty="No tasks match.")
    assert capsys.readouterr().out == "No tasks match.\n"


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields([("ID", "t-1"), ("Due", None), ("Description", "two\nlines")])
    assert capsys.readouterr().out == "ID:          t-1\nDescription: two\n             lines\n"


def test_json_in_bytes_is_printed_unchanged(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output.print_json(b'{"b": 1,"a":"\xc3\xa9"}')
    assert capsysbinary.readouterr().out == b'{"b": 1,"a":"\xc3\xa9"}\n'


def test_json_is_compact_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json([{"a": "é"}])
    printed = capsys.readouterr().out
    assert json.loads(printed) == [{"a": "é"}]
    assert printed.count("\n") == 1
