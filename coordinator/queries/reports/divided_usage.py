"""The usage of attempts that several models worked on, divided among these.

An attempt counts with its whole usage for the model that answered. For the attempts whose usage is known by model,
there are two more facts: one moves the usage of each model away from the model that answered, the other to the model
that has used it. So the usage of all models together is that of all attempts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import BigInteger, Text, func, literal, literal_column, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from coordinator.queries.reports.facts import Column, Fact
from coordinator.storage import schema
from coordinator.storage.usage_columns import COUNTS

MOVED = {**{name: name for name in COUNTS}, "cost": "cost_nanos"}  # the parts, with their names in the JSON


class _Entries(FunctionElement[Any]):
    """The entries of a JSON object that is stored as text: rows of `key` and `value`."""

    inherit_cache = True


class _Number(FunctionElement[int]):
    """A whole number in a JSON object: of the object and the name."""

    type = BigInteger()
    inherit_cache = True


@compiles(_Entries, "sqlite")
def _entries_in_sqlite(element: _Entries, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Entries, "postgresql")
def _entries_in_postgresql(element: _Entries, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each(CAST({compiler.process(element.clauses, **options)} AS json))"


@compiles(_Number, "sqlite")
def _number_in_sqlite(element: _Number, compiler: SQLCompiler, **options: Any) -> str:
    value, name = (compiler.process(it, **options) for it in element.clauses)
    return f"json_extract({value}, '$.' || {name})"


@compiles(_Number, "postgresql")
def _number_in_postgresql(element: _Number, compiler: SQLCompiler, **options: Any) -> str:
    value, name = (compiler.process(it, **options) for it in element.clauses)
    return f"CAST({value} ->> {name} AS BIGINT)"


def by_model(whole: Fact) -> Sequence[Fact]:
    """Return the facts that divide the usage in a fact of attempts; none if its report is not about models."""
    if "model" not in {*whole.report.group_by, *whole.report.where}:
        return []
    entries = _Entries(schema.attempts.c.models).table_valued("key", "value")
    model: Column = entries.c.key.cast(Text)
    used = {part: func.sum(_Number(entries.c.value, literal_column(f"'{name}'"))) for part, name in MOVED.items()}
    divided = replace(
        whole,
        table=schema.attempts.join(entries, true()),
        slices=[part & schema.has_models for part in whole.slices],
    )
    nothing = literal(0, BigInteger)
    return [
        replace(divided, parts={part: -total for part, total in used.items()}),
        replace(
            divided, dimensions={**whole.dimensions, "model": model}, parts={**used, "unknown_cost": func.sum(nothing)}
        ),
    ]
