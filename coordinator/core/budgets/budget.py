"""A named budget: its figures in each period, and which attempts are charged to which of its accounts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from broker.protocol.spending import By, Per
from broker.protocol.task_requests import OnEmpty
from broker.timestamps import Instant
from coordinator.core.budgets.periods import beginning
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.task import ANYBODY, Task


class Figures(NamedTuple):
    """Nanodollars, tokens and runs; None: not limited, or unknown."""

    nanos: int | None = None
    tokens: int | None = None
    runs: int | None = None

    def plus(self, more: "Figures") -> "Figures":
        """Return the sum. What is not limited stays so."""
        return Figures(*(None if own is None else own + (added or 0) for own, added in zip(self, more, strict=True)))


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget by its name. With `by`, each submitter, label, LLM or limit has a separate account.

    Attempts count that were assigned at `begun` or later: then `per` and `by` were what they are.
    """

    name: str
    figures: Figures
    per: Per
    by: By | None
    on_empty: OnEmpty
    begun: Instant

    def values(self, task: Task, llm: LLM) -> tuple[str, ...]:
        """Return the values whose accounts an attempt is charged to."""
        match self.by:
            case None:
                return ("",)
            case "submitter":
                return (task.submitted_by or ANYBODY,)
            case "label":
                return tuple(sorted(set(task.spec.labels)))
            case "llm":
                return (llm.name,)
            case "limit":
                return (llm.limit,)

    def since(self, at: Instant) -> Instant:
        """Return the beginning of the period of a moment."""
        return beginning(self.per, at)

    def plain(self) -> dict[str, Any]:
        """Return the budget as JSON-able data."""
        return {
            "figures": list(self.figures),
            "per": self.per,
            "by": self.by,
            "on_empty": self.on_empty,
            "begun": self.begun,
        }

    @classmethod
    def from_plain(cls, name: str, plain: Mapping[str, Any]) -> Self:
        """Return the budget from what `plain` returned."""
        figures, begun = Figures(*plain["figures"]), Instant(plain["begun"])
        return cls(name, figures, plain["per"], plain["by"], plain["on_empty"], begun)
