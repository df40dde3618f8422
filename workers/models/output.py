"""Checks of the answer of an LLM: it must be JSON, and satisfy the output schema of the task if there is one."""

import json
from typing import Any

from broker.protocol.portable_text import portable
from broker.protocol.worker_reports import Failure
from broker.untrusted import output_check
from broker.untrusted.json_schema import schema_problem
from broker.untrusted.process_pool import ProcessPool
from workers.models.base import ModelError
from workers.models.json_text import json_values

_helpers = ProcessPool()


def as_json(value: Any) -> Any:
    """Return `value` converted to JSON and back (tuples become lists, keys strings), with text valid in UTF-8.

    Raises ModelError `not_json` for a value that JSON cannot express, such as NaN.
    """
    try:
        return json.loads(portable(json.dumps(value, allow_nan=False, ensure_ascii=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError("not_json", f"the answer is not JSON: {error}", retryable=False) from error


def check_schema(schema: dict[str, Any] | None) -> None:
    """Raise ModelError `output_schema` (not retryable) if `schema` is neither None nor a JSON Schema."""
    if schema is not None and (why := schema_problem(schema)):
        raise _mismatch(f"output_schema {why}", retryable=False)


async def validate_output(result: Any, schema: dict[str, Any] | None) -> Any:
    """Return `result` as JSON, if it satisfies `schema` or there is none.

    Raises ModelError: `not_json`, or `output_schema` with the path of each mistake. The latter is retryable unless
    the schema itself is wrong, or takes too long to check.
    """
    result = as_json(result)
    if failure := await _failure(result, schema):
        raise _error(failure)
    return result


async def parse_output(text: str, schema: dict[str, Any] | None) -> Any:
    """Return the answer in a text: the text itself without a schema, else the JSON in it that satisfies the schema.

    `json_values` finds the JSON. A text that itself satisfies the schema, as for `{"type": "string"}`, is an answer
    too. Raises ModelError as `validate_output` does.
    """
    if schema is None:
        return as_json(text)
    values = list(json_values(text))
    failures: list[Failure] = []
    for value in [*values, text]:
        failure = await _failure(value, schema)
        if failure is None:
            return as_json(value)
        if not failure.retryable:  # the schema is wrong, whatever the answer
            raise _error(failure)
        failures.append(failure)
    if not values:
        raise _mismatch("the answer is not JSON, as the output schema asks")
    raise _error(failures[0])


async def _failure(value: Any, schema: dict[str, Any] | None) -> Failure | None:
    if schema is None:
        return None
    check_schema(schema)
    return await output_check.check(value, schema, _helpers)


def _error(failure: Failure) -> ModelError:
    return ModelError(failure.type, failure.message, retryable=failure.retryable)


def _mismatch(message: str, *, retryable: bool = True) -> ModelError:
    return ModelError(output_check.OUTPUT_SCHEMA, message, retryable=retryable)
