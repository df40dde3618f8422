"""The output of the demo: a live table while it runs, then the answers, the timeline and the report."""

import shutil
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from fluffle.local.demo_scenario import FOOTNOTE, Scene
from fluffle.presentation.durations import duration
from fluffle.presentation.output import console, heading, on_terminal, plain, styled

if TYPE_CHECKING:
    from broker.protocol.views import ReportView

_MIN_TIMELINE_WIDTH, _MAX_TIMELINE_WIDTH = 12, 44  # characters
COLUMNS = ("TASK", "STATUS", "LLM", "WAITED", "RAN")


class Screen:
    """Shows the tasks while they run: a live table on a terminal, a line for each change elsewhere."""

    def __init__(self, scenes: list[Scene]) -> None:
        self._scenes = scenes
        self._live: Any = None

    def __enter__(self) -> Self:
        if on_terminal():
            from rich.live import Live

            self._live = Live(get_renderable=self._table, console=console(), refresh_per_second=10)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def changed(self, scene: Scene) -> None:
        """Show a change of a task."""
        if self._live is None:
            click.echo("  ".join(part for part in _cells(scene) if part))

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in COLUMNS:
            table.add_column(column, no_wrap=True)
        for scene in self._scenes:
            table.add_row(*(Text.from_ansi(cell) for cell in _cells(scene)))
        return table


def _cells(scene: Scene) -> list[str]:
    if scene.error is not None:
        return [plain(scene.title), styled("rejected"), "", "", scene.error]
    if scene.view is None:
        return [plain(scene.title), "", "", "", ""]
    view = scene.view
    now = datetime.now(UTC)
    waited = (view.started_at or now) - view.submitted_at
    ran = now - view.started_at if view.started_at else None
    if view.attempts and view.attempts[-1].duration is not None:
        ran = timedelta(seconds=view.attempts[-1].duration)
    return [
        plain(scene.title),
        styled(view.status),
        view.llm or "",
        duration(max(0.0, waited.total_seconds())),
        duration(max(0.0, ran.total_seconds())) if ran is not None else "",
    ]


def print_ending(scenes: list[Scene], report: "ReportView") -> None:
    """Print the answers, the timeline and the report."""
    from fluffle.cli.report import print_report

    for scene in scenes:
        heading(plain(f"{scene.title} — {scene.view.llm or 'no LLM'}" if scene.view else scene.title))
        click.echo(_outcome(scene))
    heading("Timeline  (· waited, █ ran)")
    for line in _timeline([scene for scene in scenes if scene.view is not None]):
        click.echo(line)
    heading("Report: summary")
    print_report(report)
    click.echo(FOOTNOTE)


def _outcome(scene: Scene) -> str:
    if scene.view is None:
        return scene.error or ""
    if scene.view.error is not None:
        return plain(f"{scene.view.status}: {scene.view.error.type}: {scene.view.error.message}")
    return plain(str(scene.view.result))


def _timeline(scenes: list[Scene]) -> list[str]:
    views = [scene.view for scene in scenes if scene.view]
    start = min((view.submitted_at for view in views), default=datetime.now(UTC))
    end = max((view.finished_at or view.submitted_at for view in views), default=start)
    whole = max((end - start) / timedelta(seconds=1), 0.001)

    title = max((len(scene.title) for scene in scenes), default=0)
    width = max(_MIN_TIMELINE_WIDTH, min(_MAX_TIMELINE_WIDTH, shutil.get_terminal_size().columns - title - 12))

    def place(moment: datetime | None) -> int:
        return round(((moment or end) - start).total_seconds() / whole * width)

    lines = [f"{'':{title}}  {'':8}  0 s{duration(whole):>{width - 3}}"]
    for scene, view in zip(scenes, views, strict=True):
        submitted, started, finished = map(place, (view.submitted_at, view.started_at, view.finished_at))
        ran = max(1, finished - started)
        started = min(started, width - ran)
        bar = " " * submitted + "·" * (started - submitted) + "█" * ran
        lines.append(f"{plain(scene.title):{title}}  {view.llm or '':8}  {bar}")
    return lines
