"""What an LLM answered is JSON and satisfies the output schema, or the attempt fails and says why."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from broker.protocol.worker_reports import Failure
from broker.untrusted.output_check import check_apart, quick_check
from broker.untrusted.process_pool import ProcessPool
from workers.models.base import ModelError
from workers.models.output import as_json, check_schema, parse_output, validate_output

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}


async def test_without_a_schema_any_json_is_an_answer() -> None:
    assert await validate_output({"a": [1, None, "x"]}, None) == {"a": [1, None, "x"]}


def test_a_value_is_converted_to_json_and_back() -> None:
    assert as_json({1: (2, 3)}) == {"1": [2, 3]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"bytes", {"a": [1j]}])
def test_a_value_that_json_cannot_express_is_refused(value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        as_json(value)
    assert (caught.value.type, caught.value.retryable) == ("not_json", False)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ModelError, match="not JSON"):
        as_json(endless)


async def test_an_answer_that_breaks_the_schema_is_named_by_its_path_and_may_be_tried_again() -> None:
    with pytest.raises(ModelError) as caught:
        await validate_output({"name": "Ana", "age": -1}, PERSON)
    assert caught.value.type == "output_schema"
    assert caught.value.retryable
    assert "$.age: -1 is less than the minimum of 0" in caught.value.message


async def test_many_errors_in_a_huge_answer_make_a_short_message() -> None:
    with pytest.raises(ModelError) as caught:
        await validate_output(["x" * 10_000] * 1000, {"type": "array", "items": {"type": "integer"}})
    assert len(caught.value.message) <= 2000


async def test_without_a_schema_a_text_is_the_answer_even_if_it_looks_like_json() -> None:
    assert await parse_output('{"name": "Ana"}', None) == '{"name": "Ana"}'


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ana"}',
        '  {"name": "Ana"}\n',
        '```json\n{"name": "Ana"}\n```',
        'Here it is:\n\n```JSON\n{"name": "Ana"}\n```\nAnything else?',
        '```\n{"name": "Ana"}\n```',
    ],
)
async def test_json_is_found_in_a_text_that_stands_alone_or_in_a_fence(text: str) -> None:
    assert await parse_output(text, PERSON) == {"name": "Ana"}


async def test_a_fence_inside_a_json_string_is_not_taken_for_the_answer() -> None:
    text = '{"name": "```json\\n{}\\n```"}'
    assert await parse_output(text, PERSON) == {"name": "```json\n{}\n```"}


async def test_a_text_satisfies_a_schema_for_strings_as_it_is() -> None:
    assert await parse_output("hello", {"type": "string"}) == "hello"
    assert await parse_output("42", {"type": "string"}) == "42"
    assert await parse_output('"hello"', {"type": "string"}) == "hello"


@pytest.mark.parametrize("text", ["", "no idea", '{"name": ', '{"age": NaN}', "[" * 100_000])
async def test_a_text_that_is_not_json_may_be_tried_again(text: str) -> None:
    with pytest.raises(ModelError, match="not JSON") as caught:
        await parse_output(text, PERSON)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", True)


async def test_json_in_a_text_that_breaks_the_schema_is_named_by_its_path() -> None:
    with pytest.raises(ModelError, match=r"\$: 'name' is a required property"):
        await parse_output('```json\n{"age": 3}\n```', PERSON)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema", [{"type": "strnig"}, {"pattern": "("}, {"properties": 3}, {"$schema": "x:y", "type": 1}, deep(3000)]
)
def test_an_invalid_schema_is_not_retryable(schema: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        check_schema(schema)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", False)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/nothing"}, {"$ref": "https://example.com/s"}])
async def test_a_reference_without_a_target_is_not_retryable(schema: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        await validate_output(1, schema)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", False)


async def test_a_schema_makes_no_request() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with pytest.raises(ModelError):
                await validate_output({"a": 1}, {"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"})
        finally:
            server.shutdown()
            thread.join()
    assert asked == []


async def test_references_inside_a_schema_are_followed() -> None:
    tree = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    assert await validate_output({"next": {"next": {}}}, tree) == {"next": {"next": {}}}
    with pytest.raises(ModelError, match=r"\$\.next\.next: 3 is not of type 'object'"):
        await validate_output({"next": {"next": 3}}, tree)


ENDLESS = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
NEVER_MATCHED = {"a": "a" * 44 + "!"}


async def test_a_pattern_that_never_ends_is_stopped_and_the_loop_goes_on_meanwhile() -> None:
    checking = asyncio.create_task(validate_output(NEVER_MATCHED, ENDLESS))
    assert await validate_output({"a": "aaa"}, ENDLESS) == {"a": "aaa"}
    assert not checking.done()
    with pytest.raises(ModelError, match="cannot be checked: it took longer than 2 s") as caught:
        await checking
    assert (caught.value.type, caught.value.retryable) == ("output_schema", False)


async def test_an_answer_that_cannot_be_checked_is_looked_at_once_and_not_in_every_way_to_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks: list[Any] = []

    async def check(value: Any, *_: Any) -> Failure:
        checks.append(value)
        return Failure(type="output_schema", message="it took too long", retryable=False)

    monkeypatch.setattr("workers.models.output.output_check.check", check)
    with pytest.raises(ModelError, match="it took too long"):
        await parse_output(json.dumps(NEVER_MATCHED), ENDLESS)
    assert checks == [NEVER_MATCHED]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (PERSON, {"name": "Ana", "age": -1}),
        (PERSON, {"age": 3}),
        ({"$defs": {"x": {"type": "string"}}, "items": {"$ref": "#/$defs/x"}}, ["a", 1]),
        ({"anyOf": [{"type": "null"}, {"const": 3}]}, 4),
        ({"type": "string", "maxLength": 2}, "abc"),
        (PERSON, {"name": "Ana"}),
        ({"prefixItems": [{"type": "null"}], "items": False}, [None]),
    ],
)
async def test_a_check_at_once_says_the_same_as_one_in_a_helper_process(schema: dict[str, Any], value: Any) -> None:
    helpers = ProcessPool(1)
    at_once, is_known = quick_check(value, schema)
    assert is_known
    assert at_once == await check_apart(value, schema, helpers)
    helpers.close()


@pytest.mark.parametrize("value", ["x" * 600_000, [1] * 20_000, {f"p{n}": n for n in range(20_000)}])
def test_a_long_answer_is_never_checked_at_once(value: Any) -> None:
    assert quick_check(value, PERSON) == (None, False)
