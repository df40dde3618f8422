"""The keywords of JSON Schema: the places of subschemas, and checks of other values."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

DRAFT_3 = "http://json-schema.org/draft-03/schema"
DRAFT_4 = "http://json-schema.org/draft-04/schema"
WITH_LISTS_OF_ITEMS = (
    DRAFT_4,
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
)
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
UNBOUNDED = frozenset(
    (
        *("pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"),
        *("$dynamicRef", "$recursiveRef", "$id", "id"),
    )
)
"""With these, the time to check a value is not proportional to the lengths of schema and value."""


class Place(NamedTuple):
    """How a keyword holds subschemas: `one`, a list of `many`, or `named` ones.

    `same`: they apply to the same value as the outer schema, not to a part of it. `applies`: False when they apply
    only by a reference.
    """

    one: bool = False
    many: bool = False
    named: bool = False
    same: bool = False
    applies: bool = True


_ALL_OF, _IF, _ITEMS = Place(many=True, same=True), Place(one=True, same=True), Place(one=True)
PLACES = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _ALL_OF),
    **dict.fromkeys(("if", "then", "else", "not"), _IF),
    **dict.fromkeys(("dependentSchemas", "dependencies"), Place(named=True, same=True)),
    **dict.fromkeys(("additionalProperties", "additionalItems", "contains", "contentSchema", "propertyNames"), _ITEMS),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), _ITEMS),
    **dict.fromkeys(("properties", "patternProperties"), Place(named=True)),
    **dict.fromkeys(("$defs", "definitions"), Place(named=True, applies=False)),
    "items": Place(one=True, many=True),
    "prefixItems": Place(many=True),
}

Check = Callable[[Any], str | None]
"""Returns the problem of a keyword's value; None for a valid one."""


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "is neither true nor false"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "is not text"


def _number(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if is_number else "is not a number"


def _positive(value: Any) -> str | None:
    return _number(value) or (None if value > 0 else "is not greater than 0")


def _count(value: Any) -> str | None:
    return _number(value) or (None if value >= 0 and value == int(value) else "is not a whole number from 0 on")


def _list(value: Any) -> str | None:
    return None if isinstance(value, list) else "is not a list"


def _texts(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return "is not a list of texts"
    return None if len(set(value)) == len(value) else "has a text twice"


def _named_texts(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "is not an object"
    return next((wrong for texts in value.values() if (wrong := _texts(texts))), None)


def _type(value: Any) -> str | None:
    if value in TYPES:
        return None
    if isinstance(value, list) and value and all(item in TYPES for item in value) and not _texts(value):
        return None
    return f"is not valid: a type is one of {', '.join(TYPES)}, or a list of them"


CHECKS: dict[str, Check] = {
    "type": _type,
    "enum": _list,
    "examples": _list,
    "required": _texts,
    "dependentRequired": _named_texts,
    "multipleOf": _positive,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _count),
    **dict.fromkeys(("minContains", "maxContains"), _count),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _boolean),
    **dict.fromkeys(("$id", "$anchor", "$dynamicAnchor", "$comment", "title", "description", "format"), _text),
    **dict.fromkeys(("contentEncoding", "contentMediaType", "pattern", "$ref", "$dynamicRef", "$recursiveRef"), _text),
}
CHECKS_OF_DRAFT_4 = CHECKS | dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _boolean) | {"id": _text}


def problem_with(texts: Any) -> str | None:
    """Return the problem of a list of property names; None for a valid one."""
    return _texts(texts)
