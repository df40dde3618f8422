"""The state of a coordinator and of its tasks at one moment, for monitoring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from broker.telemetry.counters import Runs

State = Literal["starting", "standing by", "leading"]


class Backlog(NamedTuple):
    """Live tasks by status, and the age of the oldest pending one in seconds; None when none is pending."""

    live: dict[str, int]
    oldest: float | None


class LLMSnapshot(NamedTuple):
    """One connected LLM: its slots, its assigned and running tasks, the parked ones of these, its instances.

    `available` is 1 if it gets tasks as soon as it has a free slot; `open_circuits` counts instances.
    """

    slots: int
    in_hand: int
    parked: int
    instances: int
    available: int
    open_circuits: int


class LLMs(NamedTuple):
    """The connected LLMs by name, the outcomes of their attempts, and their rate limits."""

    by_name: dict[str, LLMSnapshot]
    runs: dict[str, Runs]
    closed_limits: Mapping[str, bool]  # by name: whether it is closed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment. Fields that only the leader knows, or that were not ready in time, are None or empty."""

    state: State
    inbox: int  # messages that wait for their batch
    backlog: Backlog | None = None
    llms: LLMs | None = None
    queues: Mapping[str, int] = field(default_factory=dict)  # messages by queue
