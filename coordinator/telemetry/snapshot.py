"""How a coordinator and its books stand at a moment, for whoever watches over it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from broker.telemetry.counters import Runs

State = Literal["starting", "standing by", "leading"]


class Backlog(NamedTuple):
    """Live tasks by status, and for how many seconds the oldest pending one has existed; None when none is pending."""

    live: dict[str, int]
    oldest: float | None


class LLMSnapshot(NamedTuple):
    """Of one LLM that is there: its slots, tasks in hand, those of them that are parked, and its instances."""

    slots: int
    in_hand: int
    parked: int
    instances: int


class LLMs(NamedTuple):
    """The LLMs that are there, by name, and what has become of their attempts."""

    standing: dict[str, LLMSnapshot]
    runs: dict[str, Runs]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Without what only the leader tells, and without what was not told in time."""

    state: State
    inbox: int  # messages that have arrived and await their batch
    backlog: Backlog | None = None
    llms: LLMs | None = None
    queues: Mapping[str, int] = field(default_factory=dict)  # messages by queue
