"""What the client does about reports."""

from typing import Unpack

from broker.errors import QueryRejected, TaskRejected
from broker.protocol.queries import ReportQuery, ReportsQuery, SaveReport
from broker.protocol.views import NamedReport, ReportList, ReportView
from fluffle.client.conversion import made, read
from fluffle.client.kwargs import ReportDefinition, ReportFields
from fluffle.client.requests import RequestClient


class Reporting:
    """A client's way to figures, and to reports under names."""

    _request_client: RequestClient

    async def report(self, name: str | None = None, **fields: Unpack[ReportFields]) -> ReportView:
        """A report by its name, with these fields in place of its own; `where` comes to its filters.

            await client.report("timing", since=yesterday)
            await client.report(group_by=["llm"], metrics=["completed", "run_time_p95"], where={"label": ["nightly"]})

        Without a name it is `summary`, or a report of one's own. The report catalogue (broker.protocol) describes
        all dimensions and metrics. Durations are seconds. Raises QueryRejected and NoAnswer.
        """
        return read(ReportView, await self._request_client.ask(made(ReportQuery, QueryRejected, name=name, **fields)))

    async def reports(self) -> list[NamedReport]:
        """The reports that there are: the predefined ones, then those that somebody has saved. Raises NoAnswer."""
        return read(ReportList, await self._request_client.ask(ReportsQuery())).reports

    async def save_report(self, name: str, **fields: Unpack[ReportDefinition]) -> None:
        """Keep a report under a name, for everybody, in place of what was kept there. Raises TaskRejected, NoAnswer."""
        await self._request_client.command(made(SaveReport, TaskRejected, name=name, report=fields))

    async def drop_report(self, name: str) -> None:
        """Drop what is kept under that name, if there is anything. Raises TaskRejected and NoAnswer."""
        await self._request_client.command(made(SaveReport, TaskRejected, name=name))
