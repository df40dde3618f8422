"""Rate limits and budgets: the requests of people, the queries, and their answers.

Each class of a request names its routing key. docs/protocol.md describes every field for users.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from broker.protocol.primitives import Moment, Tag, WireModel, matching
from broker.protocol.task_requests import OnEmpty, Patch
from broker.protocol.views import View

Per = Literal["hour", "day", "week", "month"]
By = Literal["submitter", "label", "llm", "limit"]
Rate = Annotated[float, Field(gt=0, le=10**9)]

_BUDGET_PATTERN = r"^([a-z0-9][a-z0-9-]{0,62}|task:[A-Za-z0-9._:-]{1,64})$"
BudgetName = Annotated[str, matching(_BUDGET_PATTERN, "must be the name of a budget, or task:<ID of a task>")]

Usd = Annotated[float, Field(gt=0, le=10**9)]
TokenCount = Annotated[int, Field(gt=0, le=10**15)]
Runs = Annotated[int, Field(gt=0, le=10**12)]


class ManageLimit(Patch):
    """Routing key `manage_limit`: pause or resume a rate limit, or set its figures. Absent fields keep their value.

    `paused` true closes the limit, until the moment `until` if given; false opens it at once, whatever closed it. Null
    removes a figure. `forget` removes a limit that no LLM uses.
    """

    routing_key: ClassVar[str] = "manage_limit"

    limit: Tag
    paused: bool | None = None
    until: Moment | None = None
    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = None
    forget: bool = False

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.until is not None and not self.paused:
            raise ValueError("until: only with paused")
        if self.forget and self.model_fields_set - {"limit", "forget"}:
            raise ValueError("forget: cannot be combined with other changes")
        return self


class ManageBudget(Patch):
    """Routing key `manage_budget`: set, raise or drop a budget. Absent fields keep their value; null removes a figure.

    A new budget needs at least one of `usd`, `tokens` and `runs`. With `by`, each submitter, label, LLM or limit has a
    separate budget; `value` names one of these for `raise_usd`, `raise_tokens` and `raise_runs`, which add to the
    present period only. The budget of a task is named `task:<ID>` and can only be raised.
    """

    routing_key: ClassVar[str] = "manage_budget"

    budget: BudgetName
    usd: Usd | None = None
    tokens: TokenCount | None = None
    runs: Runs | None = None
    per: Per | None = None
    by: By | None = None
    on_empty: OnEmpty | None = None
    value: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    raise_usd: Usd | None = None
    raise_tokens: TokenCount | None = None
    raise_runs: Runs | None = None
    drop: bool = False

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        given = self.model_fields_set - {"budget", "value"}
        raises = {name for name in given if name.startswith("raise_")}
        if not given:
            raise ValueError("says nothing to change")
        if self.drop and given != {"drop"}:
            raise ValueError("drop: cannot be combined with other changes")
        if self.budget.startswith("task:") and given != raises:
            raise ValueError("budget: the budget of a task can only be raised")
        if self.value is not None and not raises:
            raise ValueError("value: only with raise_usd, raise_tokens or raise_runs")
        return self


class ManageSpending(WireModel):
    """Routing key `spending`: stop all spending at once, or allow it again.

    While it is stopped, runs of LLMs that cost money, or may, are stopped and no new ones begin.
    """

    routing_key: ClassVar[str] = "spending"

    stopped: bool
    reason: Annotated[str, Field(max_length=500)] = ""


class LimitsQuery(WireModel):
    """Routing key `limits`: all rate limits by name, or the one with that name. The answer is a LimitList."""

    routing_key: ClassVar[str] = "limits"

    name: Tag | None = None


class BudgetsQuery(WireModel):
    """Routing key `budgets`: all budgets, or those of that name. The answer is a BudgetList.

    The budgets of tasks are only in the answer when the query names them.
    """

    routing_key: ClassVar[str] = "budgets"

    name: BudgetName | None = None


class LimitView(View):
    """A rate limit that LLMs share. `until` is when it opens; None: unknown, or it is open.

    `state` is `open`, `closed` by the provider or because a figure is used up, `probing` while few runs are allowed
    after it was closed, or `paused` by hand. `tier` is `window` for a closure of hours, else `throttle`.
    `requests_left` and `tokens_left` are what the figures allow at the moment.
    """

    name: str
    state: Literal["open", "closed", "probing", "paused"]
    until: datetime | None = None
    why: str = ""
    tier: Literal["throttle", "window"] | None = None
    llms: list[str] = Field(default_factory=list)
    running: int = 0
    allowed: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrent: int | None = None
    requests_left: float | None = None
    tokens_left: float | None = None


class LimitList(View):
    """The rate limits by name."""

    limits: list[LimitView]


class BudgetView(View):
    """A budget in its present period, or that of one submitter, label, LLM or limit (`value`).

    `reserved_…` is set aside for runs; `left_…` is what is neither spent nor reserved. `usd`, `tokens` and `runs` are
    the figures of the present period, with what they were raised by.
    """

    name: str
    value: str | None = None
    usd: float | None = None
    tokens: int | None = None
    runs: int | None = None
    per: str | None = None
    by: str | None = None
    on_empty: str = "wait"
    state: Literal["ok", "warning", "empty"] = "ok"
    spent_usd: float = 0.0
    spent_tokens: int = 0
    spent_runs: int = 0
    unknown_runs: int = 0
    reserved_usd: float = 0.0
    reserved_tokens: int = 0
    left_usd: float | None = None
    left_tokens: int | None = None
    left_runs: int | None = None
    since: datetime | None = None
    until: datetime | None = None


class BudgetList(View):
    """The budgets by name and value. `stopped` is the reason while all spending is stopped."""

    budgets: list[BudgetView]
    stopped: str | None = None
