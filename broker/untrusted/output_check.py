"""Check a result against the output schema of its task.

Small and simple schemas and results are checked at once. Others are checked in a child process, which can be killed:
a pattern of 20 characters may occupy Python for years.
"""

import json
from functools import lru_cache
from itertools import islice
from typing import Any

from broker.errors import HelperError
from broker.protocol.worker_reports import Failure
from broker.untrusted.json_schema import inspect_schema
from broker.untrusted.process_pool import ProcessPool

OUTPUT_SCHEMA = "output_schema"
"""The failure type of an attempt whose result does not satisfy its schema."""

LIMIT_SECONDS, SECONDS_PER_MEGABYTE = 2.0, 10.0
"""The CPU time of one check: a base, and an amount per megabyte of the result."""

MAX_QUICK_STEPS = 10_000  # a few milliseconds
_CHARACTERS_A_STEP = 50
_SHOWN_PROBLEMS = 5
_SHOWN_CHARACTERS = 300


def quick_check(value: Any, schema: dict[str, Any]) -> tuple[Failure | None, bool]:
    """Check a result if that is quick. Returns the failure or None, and whether the result was checked."""
    cost = inspect_schema(schema).cost
    if cost is None or not _is_at_most(value, MAX_QUICK_STEPS // cost):
        return None, False
    try:
        return _failure(_compared(value, json.dumps(schema))), True
    except Exception:  # of any class: the check in a child process reports it
        return None, False


async def check(value: Any, schema: dict[str, Any], helpers: ProcessPool) -> Failure | None:
    """Return why a result does not satisfy the schema, or None. Only a failure of the result is retryable."""
    failure, is_known = quick_check(value, schema)
    return failure if is_known else await check_apart(value, schema, helpers)


async def check_apart(value: Any, schema: dict[str, Any], helpers: ProcessPool) -> Failure | None:
    """Check a result like `check`, always in a child process."""
    answer = json.dumps(value)
    seconds = round(LIMIT_SECONDS + len(answer) / 1_000_000 * SECONDS_PER_MEGABYTE, 1)
    try:
        found = await helpers.call("broker.untrusted.output_check:compare", answer, schema, seconds=seconds)
    except HelperError as error:
        found = {"fault": f"the output schema cannot be checked: {error}"}
    if "fault" in found:
        return Failure(type=OUTPUT_SCHEMA, message=found["fault"], retryable=False)
    return _failure(found["problems"])


def compare(answer: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the `problems` of a result in JSON, or the `fault` of the schema. May not end: for a child process."""
    from jsonschema import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        return {"problems": _compared(json.loads(answer), json.dumps(schema), is_known=False)}
    except SchemaError as error:
        return {"fault": f"output_schema is not a JSON Schema: {error.json_path}: {error.message[:_SHOWN_CHARACTERS]}"}
    except Unresolvable as error:
        return {"fault": f"output_schema has a $ref that leads nowhere: {error}"}
    except RecursionError:
        return {"fault": "output_schema refers to itself too often"}


def _compared(value: Any, schema: str, *, is_known: bool = True) -> list[str]:
    errors = islice(_validator(schema, is_known).iter_errors(value), _SHOWN_PROBLEMS)
    return [_portable(f"{error.json_path}: {error.message}"[:_SHOWN_CHARACTERS]) for error in errors]


@lru_cache(64)
def _validator(text: str, is_known: bool) -> Any:
    """Return the validator of a schema. Raises SchemaError, unless the schema `is_known` to be valid."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = json.loads(text)
    kind = validator_for(schema, default=Draft202012Validator)
    if not is_known:
        kind.check_schema(schema)
    return kind(schema, registry=Registry())  # with an empty registry, no $ref is fetched from the network


def _portable(text: str) -> str:
    """Return text that UTF-8 can encode and every database can store."""
    return text.encode(errors="replace").decode().replace("\0", "\\0")


def _failure(problems: list[str]) -> Failure | None:
    if not problems:
        return None
    message = "the answer does not satisfy the output schema: " + "; ".join(problems)
    return Failure(type=OUTPUT_SCHEMA, message=message, retryable=True)


def _is_at_most(value: Any, steps: int) -> bool:
    """Whether reading the whole value takes at most that many steps."""
    waiting = [value]
    while waiting and steps >= 0:
        item = waiting.pop()
        steps -= 1
        match item:
            case dict():
                waiting += item.values()
                steps -= sum(map(len, item)) // _CHARACTERS_A_STEP
            case list():
                waiting += item
            case str():
                steps -= len(item) // _CHARACTERS_A_STEP
    return steps >= 0
