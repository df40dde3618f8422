"""The queries that the coordinator answers on the exchange `fluffle.queries`, and the request that saves a report.

Each class names its routing key and the view (views.py) that answers it. docs/protocol.md describes every field.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from broker.protocol.chat import Address
from broker.protocol.primitives import Count, Moment, Name, Tag, TaskId, WireModel
from broker.protocol.report_catalog import METRICS, MOST_DIMENSIONS, MOST_ROWS
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission

ReportWord = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class TaskQuery(WireModel):
    """Routing key `task`: one task. The answer is a TaskView."""

    routing_key: ClassVar[str] = "task"

    id: TaskId


class TasksQuery(WireModel):
    """Routing key `tasks`: a page of tasks, newest first. The answer is a TaskPage. Filters narrow, lists widen."""

    routing_key: ClassVar[str] = "tasks"

    status: list[Status] = Field(default_factory=list)
    llm: Name | None = None
    label: list[Tag] = Field(default_factory=list)
    text: Annotated[str, Field(max_length=200)] | None = None
    within: TaskId | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Count | None = None


class LLMsQuery(WireModel):
    """Routing key `llms`: a page of the LLMs that have ever said hello, by name, or the one with that name.

    The answer is an LLMList.
    """

    routing_key: ClassVar[str] = "llms"

    name: Name | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000
    after: Name | None = None

    def encode(self) -> bytes:
        """The body as JSON: what is given. A coordinator of an earlier version knows nothing but `name`."""
        return self.model_dump_json(exclude_unset=True, exclude_none=True).encode()


class MessagesQuery(WireModel):
    """Routing key `messages`: a page of messages, newest first. The answer is a MessagePage. Filters narrow."""

    routing_key: ClassVar[str] = "messages"

    conversation_id: TaskId | None = None
    participant: Address | None = None
    in_reply_to: TaskId | None = None
    text: Annotated[str, Field(max_length=200)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Count | None = None


class ConversationsQuery(WireModel):
    """Routing key `conversations`: a page of conversations, that with the newest message first.

    The answer is a ConversationPage.
    """

    routing_key: ClassVar[str] = "conversations"

    participant: Address | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Count | None = None


class PlacementQuery(Submission):
    """Routing key `placement`: who would get this task if it were submitted now. The answer is a Placement."""

    routing_key: ClassVar[str] = "placement"


class ReportFields(WireModel):
    """What a report tells; the names are those of broker/protocol/report_catalog.py. What is not given is as it was."""

    group_by: Annotated[list[ReportWord], Field(max_length=MOST_DIMENSIONS)] | None = None
    metrics: Annotated[list[ReportWord], Field(max_length=len(METRICS))] | None = None
    where: dict[ReportWord, list[ReportWord | int | bool | None]] | None = None
    moment: Literal["submitted", "finished"] | None = None
    sort: ReportWord | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None


class SaveReport(WireModel):
    """Routing key `save_report` of `fluffle.tasks`: keep a report under a name, for everybody. None drops it."""

    routing_key: ClassVar[str] = "save_report"

    name: Name
    report: ReportFields | None = None


class ReportsQuery(WireModel):
    """Routing key `reports`: all reports that there are. The answer is a ReportList."""

    routing_key: ClassVar[str] = "reports"


class ReportQuery(ReportFields):
    """Routing key `report`: figures on what happened in [since, until). The answer is a ReportView.

    Without a name it is `summary`, or a report of one's own when `group_by` or `metrics` are given.
    """

    routing_key: ClassVar[str] = "report"

    name: ReportWord | None = None
    since: Moment | None = None
    until: Moment | None = None
