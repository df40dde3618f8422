"""The columns of the usage of a task or an attempt. Costs are whole nanodollars: exact sums."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import RowMapping

from broker.protocol.worker_reports import ModelUsage, Usage

NANOS = 1_000_000_000  # in a US dollar

COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "requests")
WITHOUT_COST = '%"cost_nanos":null%'  # models, as JSON, of which one has an unknown cost
UNUSED = dict.fromkeys((*COUNTS, "cost_nanos", "models"))


def usage_row(usage: Usage | None) -> dict[str, Any]:
    """Return the columns of a usage. In the JSON of the models, every model has its `cost_nanos`, null if unknown."""
    if usage is None:
        return UNUSED
    models = {
        name: {**its.model_dump(include=set(COUNTS), exclude_none=True), "cost_nanos": _nanos(its.cost_usd)}
        for name, its in (usage.models or {}).items()
    }
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "requests": usage.requests,
        "cost_nanos": _nanos(usage.cost_usd),
        "models": to_json(models).decode() if models else None,
    }


def usage_of(row: RowMapping | Mapping[str, Any]) -> Usage | None:
    """Return the usage of a row; None if nothing is known."""
    used = _known(row)
    if row["models"] is not None:
        used["models"] = {name: ModelUsage(**_known(its)) for name, its in from_json(row["models"]).items()}
    return Usage(**used) if used else None


def _known(row: RowMapping | Mapping[str, Any]) -> dict[str, Any]:
    used = {name: value for name in COUNTS if (value := row.get(name)) is not None}
    if (cost := row.get("cost_nanos")) is not None:
        used["cost_usd"] = cost / NANOS
    return used


def _nanos(cost_usd: float | None) -> int | None:
    return None if cost_usd is None else round(cost_usd * NANOS)
