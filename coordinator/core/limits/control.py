"""Requests about rate limits: pause, resume, set figures, forget."""

from itertools import islice
from typing import Any

from broker.errors import Problem, did_you_mean
from broker.mappings import without_none
from broker.timestamps import Instant, from_datetime, to_iso
from coordinator.core.commands import AnnounceLimit, AnswerRequest
from coordinator.core.events import ManageLimitRequested, Sender
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.state import CoreState

FIGURES = ("requests_per_minute", "tokens_per_minute", "concurrent")
_NAMES_COMPARED = 100


class LimitControl:
    """Does what a request asks, or refuses the request with the reason."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    def manage(self, event: ManageLimitRequested, now: Instant) -> None:
        """Change a limit. A limit without LLMs can be given figures before the first LLM connects."""
        order, sender = event.order, event.sender
        limits, given = self._state.limits, order.model_fields_set
        figures = {name: getattr(order, name) for name in FIGURES if name in given}
        limit = limits.get(order.limit)
        if limit is None:
            if not figures:
                hint = did_you_mean(order.limit, islice(limits.names(), _NAMES_COMPARED))
                self._refuse(order.limit, sender, f"there is no rate limit {order.limit}{hint}")
                return
            limit = limits.add(order.limit)
        if order.forget:
            self._forget(limit, sender, now)
            return
        until = None if order.until is None else from_datetime(order.until)
        if until is not None and until <= now:
            self._refuse(limit.name, sender, "is in the past", path="until")
            return
        for name, value in figures.items():
            setattr(limit, name, value)
        was_shut = limit.shuts
        if order.paused:
            limit.paused, limit.paused_until = True, until
        elif order.paused is False:
            limit.resume(now)
        limits.changed_by_hand(limit, now)
        if limit.shuts != was_shut:
            what = "closed" if limit.shuts else "opened"
            self._state.emit(AnnounceLimit(now, limit.name, what, "paused" if limit.paused else "", until, limit.tier))
        self._answer(limit, sender, now)

    def _forget(self, limit: RateLimit, sender: Sender, now: Instant) -> None:
        if users := sorted(self._state.limits.members(limit.name)):
            self._refuse(limit.name, sender, f"the rate limit {limit.name} is used by {', '.join(users[:10])}")
            return
        self._state.limits.forget(limit)
        self._answer(limit, sender, now)

    def _answer(self, limit: RateLimit, sender: Sender, now: Instant) -> None:
        if sender.reply_to:
            view = limit_view(limit, sorted(self._state.limits.members(limit.name)), now)
            self._state.emit(AnswerRequest("limit.accepted", sender.reply_to, sender.correlation_id, view))

    def _refuse(self, name: str, sender: Sender, text: str, *, path: str = "limit") -> None:
        self._state.refuse(name, sender, Problem(path, text))


def limit_view(limit: RateLimit, llms: list[str], now: Instant) -> dict[str, Any]:
    """Return a limit as JSON-able data: the fields of spending.LimitView."""
    limit.measure(now)
    opens_at = limit.opens_at(now)
    if limit.paused:
        state = "paused"
    elif limit.is_closed or opens_at is not None:
        state = "closed"
    else:
        state = "open" if limit.allowed is None else "probing"
    counted = {
        "requests_left": None if limit.requests_per_minute is None else round(max(0.0, limit.requests), 3),
        "tokens_left": None if limit.tokens_per_minute is None else round(max(0.0, limit.tokens), 3),
    }
    shown = {
        "name": limit.name,
        "state": state,
        "until": to_iso(opens_at),
        "why": limit.reason(now) or limit.why,
        "tier": limit.tier,
        "llms": llms,
        "running": len(limit.runs),
        "allowed": limit.allowed,
        **{name: getattr(limit, name) for name in FIGURES},
        **counted,
    }
    return without_none(shown)
