"""Hypothesis strategies: random histories of a coordinator, and random report queries."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from broker.amqp.envelope import Delivery
from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Of
from broker.protocol.status import Outcome, Status
from broker.protocol.topology import EVENTS, STATUS, TASKS
from broker.timestamps import Instant, to_datetime
from coordinator.storage.store import Store
from tests.support.batches import BatchHarness, delivery
from tests.support.core_driver import T0

MODELS = ["big", "small", 'a "b"']
LLMS, LABELS, SKILLS = ["atlas", "boreas"], ["red", "blue"], ["python", "review"]
VALUES: dict[str, list[Any]] = {
    "status": [status.value for status in Status],
    "llm": [*LLMS, None],
    "model": [*MODELS, "", None],
    "assignee": [*LLMS, None],
    "skill": [*SKILLS, None],
    "label": [*LABELS, None],
    "priority": list(range(10)),
    "priority_band": ["low", "normal", "high"],
    "submitted_by": ["ana", None],
    "conversation": ["c1", None],
    "error": ["broken", "lost", "stopped", None],
    "overdue": [True, False],
    "outcome": [outcome.value for outcome in Outcome],
}

Draw = Callable[[st.SearchStrategy[Any]], Any]

maybe = st.sampled_from([False, False, True])
usages = st.fixed_dictionaries(
    {},
    optional={
        "input_tokens": st.integers(0, 20),
        "output_tokens": st.integers(0, 10**6),
        "cached_tokens": st.integers(0, 10),
        "cache_write_tokens": st.integers(0, 10),
        "reasoning_tokens": st.integers(0, 10),
        "requests": st.integers(0, 3),
        "cost_usd": st.integers(0, 10**7).map(lambda part: part / 10**7),
    },
)
lengths = st.integers(0, 10**7) | st.integers(0, 3 * 86_400 * 10**6)  # microseconds


class World:
    """A random history of batches, and the events that it published."""

    def __init__(self, store: Store, draw: Draw) -> None:
        self.harness = BatchHarness(store)
        self.draw = draw
        self.given: dict[str, tuple[int, str]] = {}  # task -> attempt and LLM of its last assignment
        self.tasks: list[str] = []
        self.events: list[dict[str, Any]] = []

    def live(self) -> None:
        """Let time pass and process a batch, then perhaps some empty batches."""
        self.harness.at += self.draw(lengths) / 10**6
        batch = [self._anything() for _ in range(self.draw(st.integers(0, 4)))]
        for task_id, (attempt, llm) in self.given.items():
            batch += self._worked_on(task_id, attempt, llm)
        self.hear(*batch)
        for _ in range(self.draw(st.integers(0, 2))):
            self.hear()

    def hear(self, *batch: Delivery) -> None:
        for message in self.harness.process(*batch):
            body = json.loads(message.body)
            if message.exchange == EVENTS:
                self.events.append(body)
            elif message.message_id and "attempt" in body and "description" in body:
                self.given[body["task_id"]] = body["attempt"], message.routing_key.removeprefix("llm.")

    def _anything(self) -> Delivery:
        draw = self.draw
        match draw(st.sampled_from(["submit", "submit", "submit", "hello", "goodbye", "request", "manage"])):
            case "submit":
                return self._submission()
            case "hello":
                return self.hello(draw(st.sampled_from(LLMS)))
            case "goodbye":
                llm = draw(st.sampled_from(LLMS))
                return delivery(STATUS, f"{llm}.goodbye", {"name": llm, "instance": "i1"})
            case "manage":
                wish: dict[str, Any] = draw(
                    st.sampled_from([{"paused": True}, {"paused": False}, {"slots": 1}, {"slots": None}])
                )
                return delivery(TASKS, "manage", {"llm": draw(st.sampled_from(LLMS)), **wish})
            case _:
                return self._request()

    def hello(self, llm: str) -> Delivery:
        slots, model = self.draw(st.integers(1, 3)), self.draw(st.sampled_from(["big", "small"]))
        offers = {"slots": slots, "model": model, "skills": dict.fromkeys(SKILLS, 1.0)}
        mine = [{"task_id": task, "attempt": attempt} for task, (attempt, whose) in self.given.items() if whose == llm]
        return delivery(STATUS, f"{llm}.hello", {"name": llm, "instance": "i1", "tasks": mine, **offers})

    def _submission(self) -> Delivery:
        draw = self.draw
        task_id = f"t{len(self.tasks)}"
        fields: dict[str, Any] = {
            "priority": draw(st.integers(0, 9)),
            "labels": draw(st.lists(st.sampled_from(LABELS), max_size=3)),
            "skills": draw(st.lists(st.sampled_from(SKILLS), max_size=2)),
            "max_attempts": draw(st.integers(1, 2)),
        }
        if draw(maybe):
            fields["assignee"], fields["force"] = draw(st.sampled_from(LLMS)), True
        if draw(maybe):
            fields["due"] = self._later()
        if draw(maybe):
            fields["conversation_id"] = "c1"
        if draw(maybe) and self.tasks:
            fields["depends_on"] = [draw(st.sampled_from(self.tasks))]
        self.tasks.append(task_id)
        sender = {"user_id": "ana"} if draw(maybe) else {}
        return delivery(TASKS, "submit", {"id": task_id, "description": "x", **fields}, **sender)

    def _request(self) -> Delivery:
        draw = self.draw
        about = {"id": draw(st.sampled_from(self.tasks))} if self.tasks else {"id": "nothing"}
        match draw(st.sampled_from(["cancel", "retry", "assign", "update", "answer"])):
            case "assign":
                return delivery(TASKS, "assign", {**about, "llm": draw(st.none() | st.sampled_from(LLMS)), "now": True})
            case "update":
                changes: dict[str, Any] = draw(
                    st.sampled_from([{"priority": 9}, {"labels": ["blue"]}, {"due": self._later()}])
                )
                return delivery(TASKS, "update", {**about, **changes})
            case "answer":
                return delivery(TASKS, "answer", {**about, "answer": "yes"})
            case key:
                return delivery(TASKS, key, about)

    def _later(self) -> str:
        return to_datetime(self.harness.now() + self.draw(lengths)).isoformat()

    def _worked_on(self, task_id: str, attempt: int, llm: str) -> Iterator[Delivery]:
        """What the worker has to say about a task, late and twice as it may be."""
        draw = self.draw
        about = {"task_id": task_id, "attempt": attempt, "instance": "i1"}
        for what in draw(
            st.sampled_from(["", "claim", "claim", "claim progress", "claim ask", "result", "claim result"])
        ).split():
            match what:
                case "claim":
                    yield delivery(STATUS, f"{llm}.claim", about)
                case "progress":
                    yield delivery(STATUS, f"{llm}.progress", {**about, "usage": self._usage()})
                case "ask":
                    yield delivery(STATUS, f"{llm}.wait", {**about, "question": {"id": f"q{attempt}", "text": "?"}})
                case _:
                    yield delivery(STATUS, f"{llm}.result", {**about, **self._result()})

    def _result(self) -> dict[str, Any]:
        draw = self.draw
        outcome = draw(st.sampled_from(["completed", "completed", "failed", "cancelled"]))
        told: dict[str, Any] = {"outcome": outcome}
        if outcome == "failed":
            told["error"] = {"type": draw(st.sampled_from(["broken", "busy"])), "retryable": draw(st.booleans())}
        if draw(st.booleans()):
            told["duration"] = draw(lengths) / 10**6
        if draw(st.booleans()):
            told["usage"] = self._usage()
            if draw(maybe):
                told["model"] = draw(st.sampled_from(MODELS))
        return told

    def _usage(self) -> dict[str, Any]:
        draw = self.draw
        usage: dict[str, Any] = draw(usages)
        if draw(maybe):
            usage["models"] = {name: draw(usages) for name in MODELS if draw(st.booleans())}
        return usage


def lived(store: Store, draw: Draw, most: int = 12) -> World:
    """Return a world in which the LLMs have said hello and at most `most` random steps have happened."""
    world = World(store, draw)
    world.hear(*(world.hello(llm) for llm in LLMS))
    for _ in range(draw(st.integers(3, most))):
        world.live()
    return world


@st.composite
def queries(draw: st.DrawFn, until: Instant) -> dict[str, Any]:
    """A report that can be told: one that is predefined, or any."""
    if draw(maybe):
        query: dict[str, Any] = {"name": draw(st.sampled_from(list(PREDEFINED)))}
    else:
        of = draw(st.sampled_from([{Of.TASKS}, {Of.ATTEMPTS}, {Of.TASKS, Of.ATTEMPTS}, {Of.SLOTS}]))
        fitting = [name for name, dimension in DIMENSIONS.items() if of <= dimension.of]
        metrics = [name for name, metric in METRICS.items() if of.issuperset(metric.kinds)]
        where = draw(st.lists(st.sampled_from([name for name in fitting if name in VALUES]), max_size=2, unique=True))
        query = {
            "group_by": draw(st.lists(st.sampled_from(fitting), max_size=3, unique=True)),
            "metrics": draw(st.lists(st.sampled_from(metrics), min_size=1, max_size=6, unique=True)),
            "where": {
                n: draw(st.lists(st.sampled_from(VALUES[n]), min_size=1, max_size=3, unique=True)) for n in where
            },
            "moment": draw(st.sampled_from(["submitted", "finished"])),
        }
        if of == {Of.SLOTS}:
            query["where"] = {name: query["where"][name] for name in query["where"] if name == "llm"}
    for name in ("since", "until"):
        if draw(maybe):
            query[name] = to_datetime(draw(st.integers(T0, until + 86_400 * 10**6))).isoformat()
    return query
