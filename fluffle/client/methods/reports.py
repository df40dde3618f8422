"""The part of the client for reports."""

from typing import Unpack

from broker.errors import QueryRejected, TaskRejected
from broker.protocol.queries import ReportQuery, ReportsQuery, SaveReport
from broker.protocol.views import NamedReport, ReportList, ReportView
from fluffle.client.connection import ConnectedClient
from fluffle.client.kwargs import ReportDefinition, ReportFields
from fluffle.client.requests import made, read


class ReportMethods(ConnectedClient):
    """The methods of `Client` for reports."""

    async def report(self, name: str | None = None, **fields: Unpack[ReportFields]) -> ReportView:
        """Compute a report and return it. `fields` replace fields of the named report; `where` adds to its filters.

            await client.report("timing", since=yesterday)
            await client.report(group_by=["llm"], metrics=["completed", "run_time_p95"], where={"label": ["nightly"]})

        Without a name, the report is the fields' own, or `summary` when there are none. docs/reports.md describes all
        dimensions and metrics. Durations are seconds. Raises QueryRejected and NoAnswer.
        """
        return read(ReportView, await self._request_client.ask(made(ReportQuery, QueryRejected, name=name, **fields)))

    async def reports(self) -> list[NamedReport]:
        """Return all named reports: the predefined ones, then the saved ones. Raises NoAnswer."""
        return read(ReportList, await self._request_client.ask(ReportsQuery())).reports

    async def save_report(self, name: str, **fields: Unpack[ReportDefinition]) -> None:
        """Save a report under a name, for everybody; replaces an earlier one. Raises TaskRejected and NoAnswer."""
        await self._request_client.command(made(SaveReport, TaskRejected, name=name, report=fields))

    async def drop_report(self, name: str) -> None:
        """Delete the saved report of that name, if there is one. Raises TaskRejected and NoAnswer."""
        await self._request_client.command(made(SaveReport, TaskRejected, name=name))
