"""Whether something is a JSON Schema."""

import json
from functools import lru_cache
from typing import Any


def why_no_schema(schema: dict[str, Any]) -> str | None:
    """What is wrong with it as a JSON Schema (2020-12, unless it names another), by its path; None when it is one."""
    try:
        return _why_not(json.dumps(schema))
    except RecursionError:
        return "is nested too deeply"


@lru_cache(128)  # thousands of tasks of one kind have the same
def _why_not(text: str) -> str | None:
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for

    schema = json.loads(text)
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"is not a JSON Schema: {error.json_path}: {error.message}"
    return None
