"""Whether an answer satisfies the output schema of its task.

Most schemas and answers are small and plain, and are compared at once. Any other pair is compared by a helper process:
a pattern of 20 characters may keep Python busy for years.
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
"""The type of the failure of an attempt whose answer does not satisfy its schema."""

LIMIT_SECONDS, SECONDS_PER_MEGABYTE = 2.0, 10.0
"""CPU that one comparison may take: so much, and so much more for the length of the answer."""

MAX_QUICK_STEPS = 10_000  # some milliseconds
_CHARACTERS_A_STEP = 50
_SHOWN_PROBLEMS = 5
_SHOWN_CHARACTERS = 300


def quick_check(value: Any, schema: dict[str, Any]) -> tuple[Failure | None, bool]:
    """Why the answer does not satisfy the schema, and whether that is known: it is not where it might take long."""
    cost = inspect_schema(schema).cost
    if cost is None or not _is_at_most(value, MAX_QUICK_STEPS // cost):
        return None, False
    try:
        return _failure(_compared(value, json.dumps(schema))), True
    except Exception:  # whatever it is, it happens to a helper as well, which says what
        return None, False


async def check(value: Any, schema: dict[str, Any], helpers: ProcessPool) -> Failure | None:
    """Why the answer does not satisfy the schema, or None. Only an answer that is at fault may be tried again."""
    failure, is_known = quick_check(value, schema)
    return failure if is_known else await check_apart(value, schema, helpers)


async def check_apart(value: Any, schema: dict[str, Any], helpers: ProcessPool) -> Failure | None:
    """The same, always by a helper process."""
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
    """`problems` of an answer in JSON, or the `fault` of the schema. It may take for ever: for a helper process."""
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
    """Raises SchemaError, unless the schema is known to be one."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = json.loads(text)
    kind = validator_for(schema, default=Draft202012Validator)
    if not is_known:
        kind.check_schema(schema)
    return kind(schema, registry=Registry())  # an empty registry: no $ref is ever fetched from the network


def _portable(text: str) -> str:
    """Text that UTF-8 and every database can carry, whatever the names in an answer are made of."""
    return text.encode(errors="replace").decode().replace("\0", "\\0")


def _failure(problems: list[str]) -> Failure | None:
    if not problems:
        return None
    told = "the answer does not satisfy the output schema: " + "; ".join(problems)
    return Failure(type=OUTPUT_SCHEMA, message=told, retryable=True)


def _is_at_most(value: Any, steps: int) -> bool:
    """Whether a look at the whole of a value takes no more steps."""
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
