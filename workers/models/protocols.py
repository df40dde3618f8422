"""The interface of every kind of LLM."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from broker.protocol.primitives import Ability
from broker.protocol.worker_reports import Price
from workers.models.base import Answer, Job, TextCallback
from workers.tools.toolbox import Toolbox


class LLM(Protocol):
    """A kind of LLM. One object serves all slots of a worker at the same time."""

    @property
    def model(self) -> str:
        """The name shown in reports and lists, such as `ollama:llama3.2`. It never contains a secret."""
        ...

    async def run(self, job: Job, progress: TextCallback, toolbox: Toolbox | None = None) -> Answer:
        """Do the job, with the tools of the toolbox if there is one. Raises ModelError when that fails.

        To stop the job, cancel this call: it ends everything it has started and raises CancelledError.
        """
        ...


@runtime_checkable
class Checkable(Protocol):
    """An LLM that can check before the first job whether it would answer."""

    async def trouble(self) -> str | None:
        """Return why it would not answer now and what to do, or None. The check costs no tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Properties:
    """What is known of an LLM before its first job; None where unknown. See Presence for the fields."""

    limit: str | None = None
    price: Price | None = None
    context_window: int | None = None
    abilities: list[Ability] | None = None


@runtime_checkable
class Described(Protocol):
    """An LLM that knows some of its properties."""

    @property
    def properties(self) -> Properties:
        """Return them."""
        ...
