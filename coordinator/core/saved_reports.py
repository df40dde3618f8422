"""Reports that people save under a name."""

from broker.timestamps import Instant
from coordinator.core.commands import AnswerRequest
from coordinator.core.events import ReportSaved
from coordinator.core.state import CoreState, SavedReport
from coordinator.core.tasks.task import ANYBODY


def save_report(state: CoreState, event: ReportSaved, now: Instant) -> None:
    """Keep a report under its name, or drop the saved one, and confirm that."""
    state.changes.reports[event.name] = SavedReport(event.definition, event.sender.user or ANYBODY, now)
    if event.sender.reply_to:
        view = {"name": event.name, **(event.definition or {})}
        state.say(AnswerRequest("report.accepted", event.sender.reply_to, event.sender.correlation_id, view))
