"""What an LLM answered, checked: it must be JSON, and satisfy the task's output schema where there is one."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

from broker.json_schema import why_no_schema
from broker.text import portable
from workers.models.base import ModelError

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL | re.IGNORECASE)
_SHOWN_PROBLEMS = 5
_SHOWN_LENGTH = 300


def as_json(value: Any) -> Any:
    """A copy of `value` as JSON sees it (tuples are lists, keys are strings), with text that UTF-8 can carry.

    Raises ModelError `not_json` for a value that JSON has no form for, NaN included.
    """
    try:
        return json.loads(portable(json.dumps(value, allow_nan=False, ensure_ascii=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError("not_json", f"the answer is not JSON: {error}", retryable=False) from error


def check_schema(schema: dict[str, Any] | None) -> None:
    """Raises ModelError `output_schema` (not retryable) if `schema` is neither None nor a JSON Schema."""
    if schema is not None and (why := why_no_schema(schema)):
        raise _mismatch(f"output_schema {why}", retryable=False)


def validate_output(result: Any, schema: dict[str, Any] | None) -> Any:
    """`result` as JSON, if it satisfies `schema` (None: anything does).

    Raises ModelError: `not_json`, or `output_schema` with what is wrong by its path. The latter is retryable
    unless the schema itself is at fault.
    """
    result = as_json(result)
    if problems := _problems(result, schema):
        raise _mismatch("the answer does not satisfy the output schema: " + "; ".join(problems))
    return result


def parse_output(text: str, schema: dict[str, Any] | None) -> Any:
    """The answer in a text: the text itself without a schema, else the JSON in it that satisfies the schema.

    The JSON is the whole text, or stands in its only ``` fence. A text that satisfies the schema as it is, as
    for `{"type": "string"}`, is an answer too. Raises ModelError as `validate_output` does.
    """
    if schema is None:
        return as_json(text)
    values = list(_json_values(text))
    for value in [*values, text]:
        if not _problems(value, schema):
            return as_json(value)
    if not values:
        raise _mismatch("the answer is not JSON, as the output schema asks")
    return validate_output(values[0], schema)


def _json_values(text: str) -> Iterator[Any]:
    fenced = _FENCED.findall(text)
    for candidate in (text, fenced[0] if len(fenced) == 1 else ""):
        try:
            yield json.loads(candidate, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            continue


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _problems(value: Any, schema: dict[str, Any] | None) -> list[str]:
    if schema is None:
        return []
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    check_schema(schema)
    # The registry is empty so that no $ref of a task is ever fetched from the network.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        errors = list(islice(validator.iter_errors(value), _SHOWN_PROBLEMS))
    except (Unresolvable, RecursionError) as error:
        raise _mismatch(f"output_schema has a $ref that leads nowhere: {error}", retryable=False) from error
    return [f"{error.json_path}: {error.message}"[:_SHOWN_LENGTH] for error in errors]


def _mismatch(message: str, *, retryable: bool = True) -> ModelError:
    return ModelError("output_schema", message, retryable=retryable)
