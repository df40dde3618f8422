"""JSON Schemas that are accepted or refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, SchemaError

from broker.untrusted.json_schema import inspect_schema, schema_problem
from tests.support.bad_messages import SCHEMAS, doubling, nested

GOOD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an invoice": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"total": {"type": "number", "multipleOf": 0.01}, "lines": {"type": "array", "items": True}},
        "required": ["total"],
        "additionalProperties": False,
    },
    "a tree": {
        "$defs": {"node": {"properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    },
    "itself, for a part": {"properties": {"next": {"$ref": "#"}}},
    "an anchor": {"$defs": {"x": {"$anchor": "here", "type": "string"}}, "$ref": "#here"},
    "an id within": {"$id": "https://x.example/a", "$defs": {"b": {"$id": "b", "type": "null"}}, "$ref": "b"},
    "a name that is escaped": {"$defs": {"a/b~c%": {}}, "$ref": "#/$defs/a~1b~0c%25"},
    "a reference to no place for schemas": {"types": {"x": {"type": "string"}}, "$ref": "#/types/x"},
    "draft 4": {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True},
    "draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}, {"type": "null"}]},
    "dependencies": {"dependencies": {"a": ["b"], "c": {"required": ["d"]}}},
    "keywords as names": {"properties": {"$ref": {"type": "string"}, "pattern": {"enum": ["("]}}},
    "data": {"const": {"$ref": "nowhere"}, "default": {"type": "strnig"}, "examples": [{"pattern": "("}]},
    "49 levels": nested(49),
    "500 subschemas": {"properties": {f"p{n}": {} for n in range(499)}},
    "doubles 10 times": doubling(10),
}


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD.keys())
def test_a_valid_schema_is_accepted(schema: dict[str, Any]) -> None:
    assert schema_problem(schema) is None


@pytest.mark.parametrize("bad", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_a_schema_over_a_limit_is_refused_with_its_path_and_the_limit(bad: Any) -> None:
    told = schema_problem(bad.body["output_schema"])
    assert told is not None
    assert bad.says in told
    assert len(told) < 300, "an answer to a submission has room for all of it"


@pytest.mark.parametrize("levels", [12, 18, 150])
def test_references_that_expand_exponentially_are_refused(levels: int) -> None:
    assert "expand to more than 10,000" in (schema_problem(doubling(levels)) or "")


def test_a_cycle_of_references_for_the_same_value_is_refused() -> None:
    defs = {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}
    assert "refers to itself for the same value" in (
        schema_problem({"$defs": defs, "items": {"$ref": "#/$defs/a"}}) or ""
    )


@pytest.mark.parametrize(
    ("schema", "is_bounded"),
    [
        ({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}, True),
        ({"$defs": {"x": {"type": "string"}}, "items": {"$ref": "#/$defs/x"}}, True),
        ({"properties": {"a": {"pattern": "^a$"}}}, False),
        ({"patternProperties": {"^a$": {}}}, False),
        ({"properties": {"next": {"$ref": "#"}}}, False),
        ({"items": {"uniqueItems": True}}, False),
        ({"allOf": [{"unevaluatedProperties": False}]}, False),
    ],
)
def test_the_cost_of_a_check_is_known_for_bounded_schemas(schema: dict[str, Any], is_bounded: bool) -> None:
    assert (inspect_schema(schema).cost is not None) == is_bounded


_WORDS = st.sampled_from(
    (
        *("type", "enum", "required", "items", "prefixItems", "properties", "allOf", "not", "minimum", "minLength"),
        *("pattern", "uniqueItems", "dependentRequired", "additionalProperties", "title", "multipleOf", "examples"),
        *("$comment", "x"),
    )
)
_VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -1, 2.0, 1.5, "string", "object", "a", "(", "x+"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_WORDS, _VALUES, max_size=4))
def test_schemas_are_accepted_as_their_standard_says(schema: dict[str, Any]) -> None:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        assert schema_problem(schema) is not None
    else:
        assert schema_problem(schema) is None
