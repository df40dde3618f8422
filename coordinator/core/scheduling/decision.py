"""What a policy is, and what it decides. Types only."""

from typing import NamedTuple, Protocol

from broker.timestamps import Instant
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.lane import Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks.task import Task


class Decision(NamedTuple):
    """A task, the LLM that gets it, and a line that gives people the reason."""

    task: Task
    llm: LLM
    why: str


class HeldBack(NamedTuple):
    """Tasks that wait although a slot is free, and a line that gives people the reason."""

    tasks: list[Task]
    why: str


class Policy(Protocol):
    """Chooses the next task of a lane and its LLM. With `moves_stragglers`, stragglers.py moves slow runs."""

    moves_stragglers: bool

    def pick(self, lane: Lane, ready: ReadyQueue, now: Instant) -> Decision | HeldBack | None:
        """Return what to do next with the tasks of a lane that has at least one.

        The LLM of a decision has a free slot and is one of the lane's. None when no slot is free for the lane.
        """
