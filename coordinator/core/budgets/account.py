"""An account of a budget: what was spent of it in one period, and what is reserved for running attempts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.protocol.task_requests import OnEmpty, TaskBudget
from broker.timestamps import EPOCH, Instant, in_words
from coordinator.core.budgets.budget import Budget, Figures
from coordinator.core.budgets.periods import end
from coordinator.core.llms.cost_estimates import in_usd, nanos_of

WARN_AT_PERCENT = 80  # of a figure
PLENTY = 0.5  # of a figure; where so much is left and nothing else runs, a run begins even if it may need more
MOST = 2**62  # of any figure: what the database holds
NOT_RAISED = Figures(0, 0, 0)
_TASK = "task:"


class AccountKey(NamedTuple):
    """The budget (`task:<id>` for that of a task), the value of its dimension (or empty) and the period (or 0)."""

    name: str
    value: str
    since: Instant


class Hold(NamedTuple):
    """What an attempt has reserved, and what it has used so far, in nanodollars and tokens.

    A `parked` attempt reserves nothing: it may wait for another one that is charged to the same account.
    """

    nanos: int
    tokens: int
    used_nanos: int = 0
    used_tokens: int = 0
    parked: bool = False

    @property
    def taken_nanos(self) -> int:
        """What is not left for others."""
        return self.used_nanos if self.parked else max(self.nanos, self.used_nanos)

    @property
    def taken_tokens(self) -> int:
        """What is not left for others."""
        return self.used_tokens if self.parked else max(self.tokens, self.used_tokens)


@dataclass(slots=True, eq=False)
class Account:
    """An account. `own` are the figures of the budget, `raised` what people added for this period.

    `warned` and `emptied`: the event was published. `asked` is the task whose question a person has to answer, and
    `refused` says that a person answered `stop`. `waiting`: tasks may wait for the account.

    Not stored are `holds`, by the task of the attempt: they follow from the tasks that are assigned or running.
    """

    key: AccountKey
    own: Figures
    on_empty: OnEmpty
    until: Instant | None = None
    raised: Figures = NOT_RAISED
    is_open: bool = True
    spent_nanos: int = 0
    spent_tokens: int = 0
    spent_runs: int = 0
    unknown_runs: int = 0
    warned: bool = False
    emptied: bool = False
    asked: str | None = None
    refused: bool = False
    waiting: bool = False
    holds: dict[str, Hold] = field(default_factory=dict)
    active: int = 0  # of the holds: those that are not parked
    taken_nanos: int = 0
    taken_tokens: int = 0
    used_nanos: int = 0
    used_tokens: int = 0
    limits: Figures = field(init=False)  # the figures of this period

    def __post_init__(self) -> None:
        self.limits = self.own.plus(self.raised)

    @classmethod
    def of_budget(cls, budget: Budget, value: str, since: Instant) -> "Account":
        """Return the empty account of a named budget."""
        key = AccountKey(budget.name, value, since)
        return cls(key, budget.figures, budget.on_empty, end(budget.per, since))

    @classmethod
    def of_task(cls, task_id: str, budget: TaskBudget) -> "Account":
        """Return the empty account of a task."""
        nanos = None if budget.usd is None else max(1, nanos_of(budget.usd))
        return cls(AccountKey(name_of_task(task_id), "", EPOCH), Figures(nanos, budget.tokens), budget.on_empty)

    @property
    def label(self) -> str:
        """The account among those of the same period, as the tasks that wait for it name it."""
        return f"{self.key.name} {self.key.value}" if self.key.value else self.key.name

    @property
    def is_of_task(self) -> bool:
        """Whether it is the account of a task."""
        return self.key.name.startswith(_TASK)

    def __str__(self) -> str:
        if self.is_of_task:
            return f"the budget of the task {self.key.name.removeprefix(_TASK)}"
        return f"the budget {self.key.name}{f' of {self.key.value}' if self.key.value else ''}"

    # -- what is left ----------------------------------------------------------------------------------------------

    @property
    def left(self) -> Figures:
        """What is neither spent nor reserved; below 0 where more was used."""
        nanos, tokens, runs = self.limits
        return Figures(
            None if nanos is None else nanos - self.spent_nanos - self.taken_nanos,
            None if tokens is None else tokens - self.spent_tokens - self.taken_tokens,
            None if runs is None else runs - self.spent_runs - len(self.holds),
        )

    @property
    def unspent(self) -> Figures:
        """What is not spent, nor used by running attempts so far."""
        nanos, tokens, runs = self.limits
        return Figures(
            None if nanos is None else nanos - self.spent_nanos - self.used_nanos,
            None if tokens is None else tokens - self.spent_tokens - self.used_tokens,
            None if runs is None else runs - self.spent_runs,
        )

    @property
    def no_money(self) -> bool:
        """Whether running attempts that cost money have to stop."""
        nanos = self.limits.nanos
        return nanos is not None and nanos <= self.spent_nanos + self.used_nanos

    @property
    def no_tokens(self) -> bool:
        """Whether every running attempt has to stop."""
        tokens = self.limits.tokens
        return tokens is not None and tokens <= self.spent_tokens + self.used_tokens

    @property
    def is_empty(self) -> bool:
        """Whether a figure is used up."""
        runs = self.limits.runs
        return self.no_money or self.no_tokens or (runs is not None and runs <= self.spent_runs)

    @property
    def is_nearly_empty(self) -> bool:
        """Whether so much of a figure is used that people get a warning."""
        return self._are_low(self.unspent)

    @property
    def will_be_nearly_empty(self) -> bool:
        """Likewise, if running attempts use what they have reserved."""
        return self._are_low(self.left)

    def _are_low(self, rests: Figures) -> bool:
        pairs = zip(self.limits, rests, strict=True)
        return any(
            limit is not None and rest is not None and rest * 100 <= limit * (100 - WARN_AT_PERCENT)
            for limit, rest in pairs
        )

    def fits(self, need: Figures) -> bool:
        """Whether so much is left. With plenty left and nothing running, a run may begin whatever it may need."""
        nanos, tokens, runs = self.limits
        if runs is not None and self.spent_runs + len(self.holds) >= runs:
            return False
        enough = nanos is None or need.nanos == 0
        if not enough and nanos is not None and need.nanos is not None:
            enough = need.nanos <= nanos - self.spent_nanos - self.taken_nanos
        if enough and tokens is not None and need.tokens is not None:
            enough = need.tokens <= tokens - self.spent_tokens - self.taken_tokens
        return enough or self.has_plenty()

    def has_plenty(self) -> bool:
        """Whether nothing runs and at least half of each figure is left."""
        pairs = zip(self.limits, self.left, strict=True)
        return not self.active and all(
            limit is None or rest is None or (rest > 0 and rest >= limit * PLENTY) for limit, rest in pairs
        )

    # -- changes ---------------------------------------------------------------------------------------------------

    def hold(self, task_id: str, hold: Hold) -> None:
        """Set what the attempt at a task has reserved and used."""
        self.let_go(task_id)
        self.holds[task_id] = hold
        self._add(hold, 1)

    def let_go(self, task_id: str) -> None:
        """The attempt at a task is over."""
        if hold := self.holds.pop(task_id, None):
            self._add(hold, -1)

    def _add(self, hold: Hold, sign: int) -> None:
        self.active += 0 if hold.parked else sign
        self.taken_nanos += sign * hold.taken_nanos
        self.taken_tokens += sign * hold.taken_tokens
        self.used_nanos += sign * hold.used_nanos
        self.used_tokens += sign * hold.used_tokens

    def charge(self, nanos: int, tokens: int, *, runs: int, unknown: int) -> None:
        """Add to what was spent, or take back where the numbers are negative."""
        self.spent_nanos = min(MOST, self.spent_nanos + nanos)
        self.spent_tokens = min(MOST, self.spent_tokens + tokens)
        self.spent_runs += runs
        self.unknown_runs += unknown

    def raise_by(self, more: Figures) -> None:
        """Add to the figures of this period."""
        self.raised = self.raised.plus(more)
        self.renew()

    def adopt(self, budget: Budget) -> None:
        """The budget has changed."""
        self.own, self.on_empty, self.until = budget.figures, budget.on_empty, end(budget.per, self.key.since)
        self.is_open = True
        self.renew()

    def renew(self) -> None:
        """Its figures have changed: people are warned and asked again."""
        self.limits = self.own.plus(self.raised)
        self.warned = self.warned and self.is_nearly_empty
        self.emptied = self.emptied and self.is_empty
        self.refused, self.asked = False, None

    # -- texts and storage -----------------------------------------------------------------------------------------

    def spent_in_words(self) -> str:
        """Return what is used of its figures, for people."""
        nanos, tokens, runs = self.limits
        parts = []
        if nanos is not None:
            parts.append(f"${in_usd(self.spent_nanos + self.used_nanos):.4g} of ${in_usd(nanos):.4g}")
        if tokens is not None:
            parts.append(f"{self.spent_tokens + self.used_tokens:,} of {tokens:,} tokens")
        if runs is not None:
            parts.append(f"{self.spent_runs} of {runs} runs")
        return ", ".join(parts)

    def until_in_words(self) -> str:
        """Return when more is there, for people."""
        return f" until {in_words(self.until)}" if self.until is not None else ""

    def state(self) -> dict[str, Any]:
        """Return what has no separate column as JSON-able data."""
        return {
            "own": list(self.own),
            "raised": list(self.raised),
            "on_empty": self.on_empty,
            "until": self.until,
            "warned": self.warned,
            "emptied": self.emptied,
            "asked": self.asked,
            "refused": self.refused,
            "waiting": self.waiting,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `state` returned, besides the figures, which the constructor takes."""
        self.raised = Figures(*state["raised"])
        self.limits = self.own.plus(self.raised)
        self.warned, self.emptied = state["warned"], state["emptied"]
        self.asked, self.refused, self.waiting = state["asked"], state["refused"], state["waiting"]


def name_of_task(task_id: str) -> str:
    """Return the name of the budget of a task."""
    return _TASK + task_id


def is_of_task(name: str) -> bool:
    """Whether this is the name of the budget of a task."""
    return name.startswith(_TASK)
