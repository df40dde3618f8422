"""The health of an LLM for people and programs, and why it gets no tasks."""

from typing import Any

from broker.mappings import without_none
from broker.timestamps import Instant, to_iso
from coordinator.core.health.breaker import BreakerState
from coordinator.core.health.record import figures_view
from coordinator.core.llms.llm import LLM, Instance

LONGEST_WHY = 300  # characters


def health_view(llm: LLM, now: Instant) -> dict[str, Any]:
    """Return the fields of views.HealthView."""
    state, worst = health_state(llm)
    next_probe = worst.breaker.probe_at if worst is not None and state == "open" else None
    shown = {"state": state, "why": _why(llm, worst), "next_probe": to_iso(next_probe), **figures_view(llm.health, now)}
    return without_none(shown)


def health_state(llm: LLM) -> tuple[str, Instance | None]:
    """Return the state of an LLM, `healthy`, `failing`, `open` or `probing`, and the instance that shows it."""
    there = list(llm.instances.values())
    troubled = [instance for instance in there if instance.breaker.in_a_row]
    if not troubled:
        return "healthy", None
    probing = [instance for instance in troubled if instance.breaker.state is BreakerState.HALF_OPEN]
    opened = [instance for instance in troubled if instance.breaker.state is BreakerState.OPEN]
    if len(probing) + len(opened) < len(there):
        return "failing", (probing or opened or troubled)[0]
    return ("probing", probing[0]) if probing else ("open", min(opened, key=lambda it: it.breaker.probe_at))


def why_not(llm: LLM, now: Instant) -> str | None:
    """Return in words why an LLM that is online gets no tasks; None if it does."""
    if llm.state != "online" or llm.available:
        return None
    if llm.rate_limit is not None and llm.rate_limit.shuts:
        return llm.rate_limit.reason(now)
    return _why(llm, health_state(llm)[1])


def _why(llm: LLM, worst: Instance | None) -> str:
    if worst is None:
        return ""
    breaker, last = worst.breaker, llm.health.last_failure
    error = breaker.why or ("" if last is None else f"{last.type}: {last.message}")
    where = f" at {worst.id}, one of {len(llm.instances)} instances" if len(llm.instances) > 1 else ""
    match breaker.state:
        case BreakerState.CLOSED:
            text = f"{breaker.in_a_row} failures in a row{where}: {error}"
        case BreakerState.OPEN:
            text = f"circuit open{where}: {error}"
        case BreakerState.HALF_OPEN:
            text = f"the next task is a probe{where}: {error}"
    return text if len(text) <= LONGEST_WHY else text[: LONGEST_WHY - 1] + "…"
