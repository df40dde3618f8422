"""The usage of an attempt, put together from several reports of its worker."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from broker.protocol.worker_reports import ModelUsage, Usage

_FIELDS = tuple(ModelUsage.model_fields)
_NANOS = 10**9  # in a US dollar


def at_least(known: Usage | None, told: Usage | None) -> Usage | None:
    """Return the usage after one more report. Each figure is a running total: the largest one counts.

    The total of a field is never less than the sum of its models. A sum beyond the limits of a usage is no usage: then
    the models are left out.
    """
    if known is None and (told is None or told.models is None):
        return told
    given = [usage for usage in (known, told) if usage is not None]
    return _together(given) if given else None


def cost_is_known(usage: Usage) -> bool:
    """Whether the cost is that of all models. Otherwise it is unknown, or only the part that is known."""
    return usage.cost_usd is not None and all(its.cost_usd is not None for its in (usage.models or {}).values())


def _together(given: Sequence[Usage]) -> Usage:
    names = dict.fromkeys(name for usage in given for name in usage.models or ())
    models = {name: _largest(usage.models.get(name) for usage in given if usage.models) for name in names}
    total = _largest(given)
    if not models:
        return Usage(**total)
    try:
        divided = {name: ModelUsage(**its) for name, its in models.items()}
        return Usage(**_with_sums(total, [*models.values()]), models=divided)
    except ValidationError:
        return Usage(**total)


def _largest(reports: Iterable[ModelUsage | None]) -> dict[str, Any]:
    given = [usage for usage in reports if usage is not None]
    known = {name: [value for usage in given if (value := getattr(usage, name)) is not None] for name in _FIELDS}
    return {name: max(values) for name, values in known.items() if values}


def _with_sums(total: dict[str, Any], models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole = dict(total)
    for name in _FIELDS:
        parts = [_whole(name, its[name]) for its in models if name in its]
        if parts and (name not in total or _whole(name, total[name]) < sum(parts)):
            whole[name] = sum(parts) / _NANOS if name == "cost_usd" else sum(parts)
    return whole


def _whole(name: str, value: float) -> int:
    return round(value * _NANOS) if name == "cost_usd" else int(value)
