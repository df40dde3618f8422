"""The machine under everything that can arrive, in any order, again and late; then its LLMs behave, and all ends.

Core checks the machine's invariants and its free slots after every batch. Here stands what is true of its history.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.protocol.spending import ManageLimit
from broker.protocol.status import FINAL, Status
from broker.protocol.task_requests import ManageLLM, Vote
from broker.timestamps import to_datetime
from coordinator.core.commands import AnnounceTask, Command, SendAssignment
from coordinator.core.events import (
    AssignRequested,
    Event,
    ManageLimitRequested,
    ManageRequested,
    RetryRequested,
    UpdateRequested,
)
from coordinator.core.tasks.task import Task
from tests.support.core_driver import LEASE, Core, moment
from tests.support.core_events import (
    answered,
    cancelled,
    claimed,
    completed,
    failed,
    gave_up,
    left,
    progressed,
    resumed,
    seen,
    submitted,
    waited,
)
from tests.support.thoroughness import examples

IDS = [f"t{n}" for n in range(7)]
LLMS = ["atlas", "boreas"]
INSTANCES = ["i1", "i2"]
SKILLS = ["x", "y"]

ids, llms, instances = st.sampled_from(IDS), st.sampled_from(LLMS), st.sampled_from(INSTANCES)
attempts = st.integers(1, 3)
limits = st.sampled_from(["key", "atlas"])
skills = st.lists(st.sampled_from(SKILLS), unique=True)
offsets = st.none() | st.integers(-5, 30)
TEAMS: list[dict[str, Any]] = [
    {"mode": "any", "assignees": LLMS},
    {"mode": "all", "assignees": LLMS, "timeout": 30.0},
    {"mode": "vote", "assignees": LLMS, "vote": Vote(choices=["a", "b"])},
    {"mode": "vote", "assignees": LLMS[:1], "vote": Vote(judge="boreas")},
    {"mode": "relay", "assignees": LLMS},
    {"reviewer": "boreas", "max_rounds": 2},
    {"reviewer": "boreas", "assignee": "atlas", "timeout": 20.0},
]


@st.composite
def submissions(draw: st.DrawFn) -> Event:
    task_id = draw(ids)
    others = st.lists(st.sampled_from([other for other in IDS if other != task_id]), max_size=3)
    one: list[dict[str, Any]] = [{"assignee": None}, {"assignee": "atlas"}, {"assignee": "boreas"}]
    return submitted(
        task_id,
        priority=draw(st.integers(3, 5)),
        skills=draw(skills),
        force=draw(st.booleans()),
        **draw(st.sampled_from(one) | st.sampled_from(TEAMS)),
        due=draw(offsets),
        not_before=draw(offsets),
        depends_on=draw(st.just([]) | others),
        parent_id=draw(st.none() | ids),
        on_dependency_failure=draw(st.sampled_from(["fail", "run"])),
        max_attempts=draw(st.integers(1, 3)),
    )


@st.composite
def presences(draw: st.DrawFn) -> Event:
    return seen(
        draw(llms),
        draw(instances),
        slots=draw(st.integers(1, 3)),
        skills=draw(skills),
        tasks=draw(st.lists(st.tuples(ids, attempts), max_size=2)),
        draining=draw(st.sampled_from([False, False, False, True])),
        limit=draw(st.sampled_from([None, "key"])),
        reserve=draw(st.booleans()),
        spill=draw(st.sampled_from(["late", "busy", "never"])),
        context_window=draw(st.sampled_from([None, 100, 100_000])),
    )


def asked(task_id: str, attempt: int, *, llm: str, instance: str) -> Event:
    """An attempt asks a person, the same however often it is said."""
    return waited(task_id, attempt, llm=llm, instance=instance, question=f"q{attempt}")


def too_long(task_id: str, attempt: int, *, llm: str, instance: str) -> Event:
    """The task is longer than the context window of the LLM."""
    return failed(task_id, attempt, llm=llm, instance=instance, kind="context_too_long", retryable=False)


@st.composite
def failures(draw: st.DrawFn) -> Callable[..., Event]:
    """A failure by the fault of the LLM, or of anybody else."""
    kinds = ["rate_limited", "quota_exceeded", "authentication", "connection", "command_failed"]
    return partial(failed, kind=draw(st.sampled_from(kinds)), retry_after=draw(st.sampled_from([None, 0.5, 3, 1e9])))


@st.composite
def reports(draw: st.DrawFn) -> Event:
    """What a worker says about an attempt, whether it has ever had it or not."""
    known = [claimed, progressed, asked, waited, resumed, completed, failed, too_long, gave_up, draw(failures())]
    report: Any = draw(st.sampled_from(known))
    event: Event = report(draw(ids), draw(attempts), llm=draw(llms), instance=draw(instances))
    return event


@st.composite
def orders(draw: st.DrawFn) -> Event:
    """What a person wants changed about an LLM."""
    wishes: list[dict[str, Any]] = [
        {"paused": True},
        {"paused": False},
        {"drain": True},
        {"slots": draw(st.none() | st.integers(0, 2))},
        {"skills": draw(st.none() | st.builds(lambda known: dict.fromkeys(known, 0.5), skills))},
    ]
    wish = draw(st.sampled_from(wishes))
    return ManageRequested(ManageLLM(llm=draw(llms), **wish))


@st.composite
def other_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a task that may be changed while it is live."""
    due = draw(offsets)
    fields = {"priority": draw(st.integers(3, 5)), "due": None if due is None else to_datetime(moment(due))}
    return {name: fields[name] for name in draw(st.sampled_from([("priority",), ("due",), ("priority", "due")]))}


@st.composite
def retries(draw: st.DrawFn) -> Event:
    """Once more, as it was or otherwise."""
    otherwise = {**draw(other_fields()), "skills": draw(skills), "max_attempts": draw(st.integers(1, 3))}
    return RetryRequested(draw(ids), changes=draw(st.sampled_from([{}, otherwise])))


@st.composite
def limit_orders(draw: st.DrawFn) -> Event:
    """What a person wants changed about a rate limit."""
    changes: list[dict[str, Any]] = [
        {"paused": True},
        {"paused": False},
        {"forget": True},
        {"concurrent": draw(st.none() | st.integers(1, 2))},
        {"requests_per_minute": draw(st.none() | st.integers(1, 100))},
    ]
    return ManageLimitRequested(ManageLimit(limit=draw(limits), **draw(st.sampled_from(changes))))


moves = st.builds(AssignRequested, ids, st.none() | llms | st.just("nobody"), st.booleans(), st.booleans())
updates = st.builds(UpdateRequested, ids, other_fields())
replies = st.builds(answered, ids, question=st.none() | st.builds("q{}".format, attempts))
requests = st.builds(cancelled, ids) | retries() | moves | updates | orders() | replies | limit_orders()
leavings = st.builds(left, llms, instances)
anything = submissions() | submissions() | presences() | presences() | reports() | requests | leavings


def done_as_asked(task: Task, number: int, instance: str) -> Event:
    """The task is completed with a result that suits its output schema, one of several."""
    asked = (task.spec.output_schema or {}).get("properties", {})
    results: dict[str, Any] = {
        "choice": {"choice": "ab"[number % 2], "reason": ""},
        "approved": {"approved": number % 2 == 0, "remarks": "as you were"},
    }
    result = next((results[name] for name in results if name in asked), "done")  # type: ignore[operator]
    return completed(task.id, task.attempt, llm=task.llm or "", instance=instance, result=result)


def answer_to(task: Task) -> Event:
    """A person answers what the task asks."""
    question = task.open_questions[0]
    return answered(task.id, question.choices[0] if question.choices else "yes", question=question.id)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Core(window=2, woken_at_once=2)
        self.said: list[Event] = []
        self.over: dict[str, Status] = {}
        self.ever_over: set[str] = set()
        self.ever_completed: set[str] = set()
        self.ever_retried: set[str] = set()

    def handle(self, *events: Event, at: float | None = None) -> None:
        self.said += events
        self.judge(events, self.core.handle(*events, at=at))

    # -- what can happen -------------------------------------------------------------------------------------------

    @rule(events=st.lists(anything, min_size=1, max_size=4))
    def something_arrives(self, events: list[Event]) -> None:
        self.handle(*events)

    @rule(data=st.data())
    @precondition(lambda self: self.said)
    def something_arrives_again(self, data: st.DataObject) -> None:
        self.handle(*data.draw(st.lists(st.sampled_from(self.said), min_size=1, max_size=3)))

    @rule(data=st.data(), instance=instances)
    @precondition(lambda self: self.core.database.in_hand())
    def a_worker_reports_on_what_it_has(self, data: st.DataObject, instance: str) -> None:
        task = data.draw(st.sampled_from(self.core.database.in_hand()))
        known = [claimed, claimed, asked, waited, resumed, completed, failed, too_long, gave_up, progressed]
        known += data.draw(st.lists(failures(), min_size=3, max_size=3))
        report: Any = data.draw(st.sampled_from(known))
        self.handle(report(task.id, task.attempt, llm=task.llm, instance=task.instance or instance))

    @rule(data=st.data())
    @precondition(lambda self: self.asking())
    def a_person_answers(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.asking()))
        self.handle(answered(task.id, question=task.open_questions[0].id))

    def asking(self) -> list[Task]:
        return [task for task in self.core.database.tasks.values() if task.status is Status.INPUT_REQUIRED]

    @rule(number=st.integers(0, 3))
    @precondition(lambda self: self.core.database.in_hand())
    def an_llm_does_all_that_it_has_as_it_is_asked(self, number: int) -> None:
        work = self.core.database.in_hand()
        self.handle(*(done_as_asked(task, number, task.instance or "i1") for task in work))

    @rule(llm=llms, instance=instances)
    def a_worker_beats(self, llm: str, instance: str) -> None:
        theirs = [t for t in self.core.database.in_hand() if t.llm == llm and t.instance == instance]
        self.handle(seen(llm, instance, slots=2, skills=SKILLS, tasks=[(task.id, task.attempt) for task in theirs]))

    @rule(passed=st.sampled_from([0.5, 1.0, 4.0, LEASE - 1, LEASE, 60.0]))
    def time_passes(self, passed: float) -> None:
        self.handle(at=self.core.at + passed)

    @rule()
    def another_coordinator_takes_over(self) -> None:
        self.core.restart()

    # -- what must be true -----------------------------------------------------------------------------------------

    def judge(self, events: tuple[Event, ...], commands: list[Command]) -> None:
        asked_again = {event.task_id for event in events if isinstance(event, RetryRequested)}
        self.ever_retried |= asked_again
        for view in [c.view for c in commands if isinstance(c, AnnounceTask) and c.what is None]:
            self.judge_status(view["id"], Status(view["status"]), asked_again)
        for task_id in [command.task_id for command in commands if isinstance(command, SendAssignment)]:
            self.judge_dependencies(self.core.task(task_id))

    def judge_status(self, task_id: str, status: Status, asked_again: set[str]) -> None:
        if task_id in self.over:
            assert task_id in asked_again, f"{task_id} was {self.over[task_id]} and became {status}"
            del self.over[task_id]
        if status in FINAL:
            self.over[task_id] = status
            self.ever_over.add(task_id)
            if status is Status.COMPLETED:
                self.ever_completed.add(task_id)

    def judge_dependencies(self, task: Task) -> None:
        above = set(task.spec.depends_on)
        assert above <= self.ever_over
        if task.spec.on_dependency_failure == "fail" and task.id not in self.ever_retried:
            assert above <= self.ever_completed

    @invariant()
    def the_database_agrees_with_the_announcements(self) -> None:
        over = {task.id: task.status for task in self.core.database.tasks.values() if task.status in FINAL}
        assert over == self.over

    @invariant()
    def no_part_of_a_cancelled_or_failed_task_is_live_unless_somebody_wanted_it_so(self) -> None:
        for task in self.core.database.tasks.values():
            ended = task.spec.parent_id and self.over.get(task.spec.parent_id)
            if ended in (Status.CANCELLED, Status.FAILED):
                assert task.status in FINAL or task.id in self.ever_retried, f"{task.id} goes on without its parent"

    def teardown(self) -> None:
        """Every task ends once the LLMs behave, and all that others wait for is submitted."""
        freely = [ManageLLM(llm=llm, paused=False, slots=None, skills=None) for llm in self.core.machine.state.llms]
        names = self.core.machine.state.limits.names()
        for name in sorted(names):
            opened = ManageLimit(limit=name, paused=False, concurrent=None, requests_per_minute=None)
            self.handle(ManageLimitRequested(opened))
        missing = [submitted(task_id) for task_id in IDS if task_id not in self.core.database.tasks]
        self.handle(*map(ManageRequested, freely), *missing, *(AssignRequested(task_id, None) for task_id in IDS))
        for _ in range(60):
            here = [seen(llm, "well-behaved", slots=2, skills=SKILLS) for llm in LLMS]
            self.handle(*here, at=self.core.at + LEASE / 2)
            self.handle(*(answer_to(task) for task in self.asking()))
            work = self.core.database.in_hand()
            self.handle(*(claimed(t.id, t.attempt, llm=t.llm or "", instance="well-behaved") for t in work))
            self.handle(*(done_as_asked(task, task.seq, "well-behaved") for task in work))
            if all(task.status in FINAL for task in self.core.database.tasks.values()):
                break
        assert set(IDS) <= {task.id for task in self.core.database.tasks.values()} == self.over.keys()


AnyOrder.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = AnyOrder.TestCase
