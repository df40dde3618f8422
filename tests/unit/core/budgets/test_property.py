"""Budgets under anything that can arrive, in any order, again and late: the accounts agree at every moment.

Core checks the invariants of the ledger after every batch: what is reserved is what assigned and running tasks reserve.
"""

from collections.abc import Iterable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.protocol.status import FINAL, Status
from broker.protocol.task_requests import TaskBudget
from broker.protocol.worker_reports import Usage
from coordinator.core.budgets.account import AccountKey
from coordinator.core.commands import SendAssignment
from coordinator.core.events import Event
from coordinator.core.tasks.task import Attempt, Task
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import (
    answered,
    cancelled,
    claimed,
    completed,
    failed,
    left,
    progressed,
    resumed,
    retried,
    seen,
    submitted,
    waited,
)
from tests.support.spending import FREE, budget, paid, spending
from tests.support.thoroughness import examples

IDS = [f"t{n}" for n in range(6)]
LLMS = ["atlas", "boreas", "cetus"]  # of which the last one is free
TICK = 0.001  # seconds: no two batches are at the same moment
NAMES = ["team", "each", "key"]

ids, llms = st.sampled_from(IDS), st.sampled_from(LLMS)
amounts = st.none() | st.integers(0, 40_000_000).map(lambda nanos: nanos / 10**9)
usages = st.none() | st.builds(Usage, cost_usd=amounts, input_tokens=st.none() | st.integers(0, 4000))
on_empty = st.sampled_from(["wait", "ask", "fail"])
task_budgets = st.none() | st.builds(
    TaskBudget, usd=st.sampled_from([0.005, 0.02, 0.1]), tokens=st.none() | st.just(5000), on_empty=on_empty
)


@st.composite
def submissions(draw: st.DrawFn) -> Event:
    return submitted(
        draw(ids),
        description="x" * draw(st.sampled_from([1, 3000])),
        parent_id=draw(st.none() | ids),
        labels=draw(st.lists(st.sampled_from(["x", "y"]), unique=True)),
        budget=draw(task_budgets),
        max_attempts=draw(st.integers(1, 3)),
    )


@st.composite
def budget_requests(draw: st.DrawFn) -> Event:
    figures = {
        "usd": draw(st.sampled_from([0.01, 0.03, 0.2])),
        "tokens": draw(st.none() | st.just(10_000)),
        "runs": draw(st.none() | st.just(3)),
        "per": "hour",
        "on_empty": draw(on_empty),
    }
    by = {"team": None, "each": "label", "key": "limit"}
    name = draw(st.sampled_from(NAMES))
    raises: list[dict[str, Any]] = [{"raise_usd": 0.02}, {"raise_usd": 0.02, "value": "x"}]
    others = [{"drop": True}, {"per": draw(st.sampled_from(["hour", "day"]))}] if name != "team" else []
    return budget(name, **draw(st.sampled_from([figures | {"by": by[name]}] * 3 + raises + others)))


class Books(RuleBasedStateMachine):
    """The budget `team` is in force from the beginning, and every attempt is charged to it."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(window=2, woken_at_once=2)
        self.said: list[Event] = []
        self.core.handle(*self.here(), budget("team", usd=0.05, per="hour"))

    def here(self) -> list[Event]:
        hand = self.core.database.in_hand()
        known = {llm: [(t.id, t.attempt) for t in hand if t.llm == llm] for llm in LLMS}
        return [
            paid("atlas", slots=2, tasks=known["atlas"], limit="one"),
            paid("boreas", slots=1, tasks=known["boreas"], limit="one"),
            seen("cetus", slots=1, tasks=known["cetus"], price=FREE),
        ]

    def handle(self, *events: Event, at: float | None = None) -> None:
        self.said += events
        for command in self.core.handle(*events, at=self.core.at + TICK if at is None else at):
            if isinstance(command, SendAssignment):
                self.judge_reservations(command.task_id)

    def judge_reservations(self, task_id: str) -> None:
        """What an attempt has reserved was left."""
        accounts = [it for it in self.core.machine.state.budgets.accounts.values() if task_id in it.holds]
        assert accounts
        for account in accounts:
            limit = account.limits.nanos
            if limit is not None and account.holds[task_id].nanos:
                assert account.spent_nanos + account.taken_nanos <= limit, f"{account} has too little for {task_id}"

    @rule(events=st.lists(submissions(), min_size=1, max_size=3))
    def tasks_are_submitted(self, events: list[Event]) -> None:
        self.handle(*events)

    @rule(request=budget_requests())
    def a_budget_is_changed(self, request: Event) -> None:
        self.handle(request)

    @rule(task=ids)
    def the_budget_of_a_task_is_raised(self, task: str) -> None:
        self.handle(budget(f"task:{task}", raise_usd=0.02))

    @rule(stopped=st.booleans())
    def all_spending_is_stopped_or_allowed(self, stopped: bool) -> None:
        self.handle(spending(stopped=stopped))

    @rule(data=st.data(), usage=usages)
    @precondition(lambda self: self.core.database.in_hand())
    def a_worker_reports(self, data: st.DataObject, usage: Usage | None) -> None:
        task = data.draw(st.sampled_from(self.core.database.in_hand()))
        place: dict[str, Any] = {"llm": task.llm, "instance": task.instance or "i1"}
        reports: list[Event] = [
            claimed(task.id, task.attempt, **place),
            claimed(task.id, task.attempt, **place),
            progressed(task.id, task.attempt, usage=usage, **place),
            progressed(task.id, task.attempt, usage=usage, **place),
            waited(task.id, task.attempt, **place),
            waited(task.id, task.attempt, question="q", **place),
            resumed(task.id, task.attempt, **place),
            failed(task.id, task.attempt, usage=usage, **place),
            completed(task.id, task.attempt, usage=usage, **place),
        ]
        self.handle(data.draw(st.sampled_from(reports)))

    @rule(data=st.data(), usage=usages)
    @precondition(lambda self: self.tried())
    def a_result_comes_late(self, data: st.DataObject, usage: Usage | None) -> None:
        task, attempt = data.draw(st.sampled_from(self.tried()))
        instance = attempt.instance or "i1"
        self.handle(completed(task.id, attempt.attempt, llm=attempt.llm, instance=instance, usage=usage))

    def tried(self) -> list[tuple[Task, Attempt]]:
        tasks = self.core.database.tasks.values()
        return [(task, attempt) for task in tasks for attempt in task.attempts]

    @rule(data=st.data())
    @precondition(lambda self: self.said)
    def something_arrives_again(self, data: st.DataObject) -> None:
        self.handle(*data.draw(st.lists(st.sampled_from(self.said), min_size=1, max_size=3)))

    @rule(event=st.builds(cancelled, ids) | st.builds(retried, ids) | st.builds(left, llms))
    def something_ends_or_begins_again(self, event: Event) -> None:
        self.handle(event)

    @rule(data=st.data())
    @precondition(lambda self: self.asking())
    def a_person_answers(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.asking()))
        question = task.open_questions[0]
        self.handle(answered(task.id, data.draw(st.sampled_from(question.choices or ("yes",))), question=question.id))

    def asking(self) -> list[Task]:
        return [task for task in self.core.database.tasks.values() if task.open_questions]

    @rule(passed=st.sampled_from([0.5, 2.0, LEASE, 3600.0]))
    def time_passes(self, passed: float) -> None:
        self.handle(*self.here(), at=self.core.at + passed)

    @rule()
    def another_coordinator_takes_over(self) -> None:
        self.core.restart()

    # -- what must be true -----------------------------------------------------------------------------------------

    @invariant()
    def what_is_spent_is_what_the_attempts_are_charged(self) -> None:
        stored = self.core.database.ledger
        team = [account for key, account in stored.items() if key.name == "team"]
        every = [attempt for _, attempt in self.tried()]
        assert sum(it.spent_nanos for it in team) == sum(it.charged_nanos or 0 for it in every)
        assert sum(it.spent_tokens for it in team) == sum(it.charged_tokens or 0 for it in every)
        assert sum(it.spent_runs for it in team) == sum(ran(it) for it in every)
        for task in self.core.database.tasks.values():
            if task.spec.budget is not None:
                found = stored[AccountKey(f"task:{task.id}", "", 0)]  # type: ignore[arg-type]
                below = [it for it in self.core.database.tasks.values() if task.id in it.charged_to]
                attempts = [attempt for it in below for attempt in it.attempts]
                assert found.spent_nanos == sum(it.charged_nanos or 0 for it in attempts)
                assert found.spent_tokens == sum(it.charged_tokens or 0 for it in attempts)
                assert found.spent_runs == sum(ran(it) for it in attempts)

    @invariant()
    def what_an_attempt_is_charged_is_what_it_reported(self) -> None:
        for _, attempt in self.tried():
            if attempt.charged_tokens is not None and ran(attempt):
                if attempt.usage is not None and attempt.usage.cost_usd is not None:
                    assert attempt.charged_nanos == round(attempt.usage.cost_usd * 10**9)
                if attempt.usage is not None and attempt.usage.input_tokens is not None:
                    assert attempt.charged_tokens == attempt.usage.input_tokens

    @invariant()
    def only_tasks_in_hand_reserve(self) -> None:
        for task in self.core.database.tasks.values():
            assert task.in_hand or task.reserved_tokens is None, task.id

    @invariant()
    def nothing_that_costs_money_runs_where_the_money_is_used_up(self) -> None:
        for account in self.core.machine.state.budgets.accounts.values():
            limit, used = account.limits.nanos, account.spent_nanos + account.used_nanos
            if limit is not None and used >= limit:
                costs = [not hold.parked and (hold.nanos or hold.used_nanos) for hold in account.holds.values()]
                assert not any(costs), f"{account} is used up, and something runs"

    def teardown(self) -> None:
        """Every task ends once the budgets are large enough and the LLMs behave, and nothing stays reserved."""
        self.handle(spending(stopped=False))
        for name in [it.name for it in self.core.database.budgets()]:
            self.handle(budget(name, usd=10.0**6, tokens=10**12, runs=10**9, on_empty="wait"))
        self.handle(*(budget(f"task:{task}", raise_usd=10.0**5) for task in IDS))
        self.handle(*(budget(f"task:{task}", raise_tokens=10**9) for task in IDS))
        for _ in range(80):
            self.handle(*self.here(), at=self.core.at + LEASE / 2)
            self.handle(*(answer_to(task) for task in self.asking()))
            work = self.core.database.in_hand()
            self.handle(*(claimed(t.id, t.attempt, llm=t.llm or "") for t in work if t.status is Status.ASSIGNED))
            self.handle(*done(self.core.database.in_hand()))
            if all(task.status in FINAL for task in self.core.database.tasks.values()):
                break
        assert [task.id for task in self.core.database.tasks.values() if task.status not in FINAL] == []
        for account in self.core.machine.state.budgets.accounts.values():
            assert (account.holds, account.taken_nanos, account.taken_tokens) == ({}, 0, 0)


def ran(attempt: Attempt) -> bool:
    """Whether an attempt that was charged has begun."""
    return attempt.charged_tokens is not None and (
        attempt.started_at is not None or attempt.outcome in ("completed", "failed")
    )


def done(tasks: Iterable[Task]) -> list[Event]:
    """Their attempts are completed."""
    usage = Usage(cost_usd=0.001, input_tokens=100)
    return [completed(t.id, t.attempt, llm=t.llm or "", instance=t.instance or "i1", usage=usage) for t in tasks]


def answer_to(task: Task) -> Event:
    """A person answers what the task asks."""
    question = task.open_questions[0]
    return answered(task.id, question.choices[0] if question.choices else "yes", question=question.id)


Books.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBooks = Books.TestCase
