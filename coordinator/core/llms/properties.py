"""What an instance says about itself, and what an operator says about an LLM."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from broker.protocol.primitives import Ability, Spill
from broker.protocol.worker_reports import SPILL_AFTER_SECONDS, Presence, Price, skills_in_text


class Properties(NamedTuple):
    """What an LLM costs and can do, besides its skills: reported by its instances, or set by an operator.

    `limit` is the rate limit that it belongs to; without one it has a limit with its own name. `price` is None where it
    is unknown. A `reserve` LLM is for what other LLMs cannot do (see scheduling/reserves.py); `spill_after` in seconds.
    `local` is None unless an operator has set it.
    """

    limit: str | None = None
    price: Price | None = None
    reserve: bool = False
    spill: Spill = "late"
    spill_after: float = SPILL_AFTER_SECONDS
    context_window: int | None = None
    abilities: tuple[Ability, ...] | None = None
    local: bool | None = None

    def plain(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON-able data."""
        differing = {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}
        return differing | ({"price": self.price.model_dump(exclude_none=True)} if self.price else {})

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Properties":
        """Return the properties from what `plain` returned."""
        given = dict(plain)
        if "price" in given:
            given["price"] = Price.model_validate(given["price"])
        if given.get("abilities") is not None:
            given["abilities"] = tuple(given["abilities"])
        return cls(**given)

    @classmethod
    def of(cls, presence: Presence) -> "Properties":
        """Return the properties that an instance reports."""
        abilities = None if presence.abilities is None else tuple(sorted(set(presence.abilities)))
        return cls(
            presence.limit,
            presence.price,
            presence.reserve,
            presence.spill,
            presence.spill_after,
            presence.context_window,
            abilities,
        )


NO_PROPERTIES = Properties()


class InstanceProfile(NamedTuple):
    """What an instance says about itself."""

    model: str = ""
    skills: Mapping[str, float] = {}
    labels: Sequence[str] = ()
    description: str = ""
    properties: Properties = NO_PROPERTIES

    def differs_from(self, other: "InstanceProfile") -> bool:
        """Whether an instance with this profile may do a task differently from one with the other profile."""
        return (self.model, self.skills, sorted(self.labels)) != (other.model, other.skills, sorted(other.labels))

    def __str__(self) -> str:
        skills, labels = skills_in_text(self.skills) or "none", ",".join(self.labels)
        return f"model {self.model or 'none'}, skills {skills}{f', labels {labels}' if labels else ''}"
