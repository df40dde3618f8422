"""The health, the price and the role of an LLM as text."""

from datetime import datetime

from broker.protocol.views import HealthView, LLMView, PriceView
from fluffle.presentation.amounts import UNKNOWN, dollars
from fluffle.presentation.durations import duration
from fluffle.presentation.output import moment

HEALTH = {"healthy": "healthy", "failing": "failing", "open": "circuit open", "probing": "probing"}
"""The state of the circuit breaker in words."""

_ROLES = {
    "late": "gets tasks that others would finish late",
    "busy": "gets tasks when others are busy",
    "never": "gets tasks only when others cannot work",
}


def is_sick(view: LLMView) -> bool:
    """Return whether the circuit breaker keeps tasks from the LLM."""
    return view.health.state in ("open", "probing")


def health_word(view: LLMView) -> str:
    """Return the state of the circuit breaker; empty for an offline LLM of which nothing bad is known."""
    if view.state == "offline" and view.health.state == "healthy":
        return ""
    return HEALTH[view.health.state]


def trouble(view: LLMView) -> str:
    """Return in words what is wrong with an LLM, or why it gets no tasks; empty when nothing is wrong."""
    health = view.health
    if health.state == "healthy":
        return view.why_not or ""
    why = f": {health.why}" if health.why else ""
    return f"{HEALTH[health.state]}{why}"


def next_probe(health: HealthView) -> str:
    """Return when the LLM is tried again; empty where that is not planned."""
    return "" if health.next_probe is None else f"next probe {moment(health.next_probe)}"


def last_error(health: HealthView, when: datetime | None = None) -> str:
    """Return the last failure that was the LLM's own, with its time if given; empty without one."""
    if health.last_error is None:
        return ""
    error = health.last_error
    text = f"{error.type}: {error.message}" if error.message else error.type
    return text if when is None else f"{text} ({moment(when)})"


def last_hour(health: HealthView) -> str:
    """Return what the LLM did in the last hour, how fast, and at what cost; empty when it did nothing."""
    if not health.completed and not health.failed:
        return ""
    parts = [f"{health.completed:,} completed", f"{health.failed:,} failed"]
    if health.tokens_per_second is not None:
        parts.append(f"{three_digits(health.tokens_per_second)} tokens/s")
    if health.seconds_per_task is not None:
        parts.append(f"{duration(health.seconds_per_task)} a task")
    return ", ".join([*parts, f"cost {cost(health)}"])


def three_digits(value: float) -> str:
    """Return a figure with at least three digits, and never with an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cost(health: HealthView) -> str:
    """Return the cost of the last hour; empty when the LLM did nothing."""
    did_nothing = not health.completed and not health.failed
    return "" if did_nothing and health.cost_usd is None else dollars(health.cost_usd)


def price(view: PriceView | None) -> str:
    """Return the price of an LLM for a million tokens."""
    if view is None:
        return UNKNOWN
    if not view.input and not view.output:
        return "free"
    cached = "" if view.cached_input is None else f", {view.cached_input:g} USD cached in"
    return f"{view.input:g} USD in{cached}, {view.output:g} USD out, per million tokens"


def role(view: LLMView) -> str:
    """Return when a reserve LLM gets tasks; empty for other LLMs."""
    if not view.reserve:
        return ""
    text = _ROLES[view.spill or "late"] if (view.spill or "late") in _ROLES else str(view.spill)
    after = f" for more than {duration(view.spill_after)}" if view.spill == "busy" and view.spill_after else ""
    return text + after
