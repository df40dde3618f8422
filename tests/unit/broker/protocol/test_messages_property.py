"""Any bytes decode to a message, or to an error with a path."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import DecodeError
from broker.protocol import assignments, task_requests, views, worker_reports
from broker.protocol.primitives import WireModel, decode
from broker.protocol.task_requests import Patch

KINDS = [
    kind
    for module in (assignments, task_requests, views, worker_reports)
    for kind in vars(module).values()
    if isinstance(kind, type)
    and issubclass(kind, WireModel)
    and kind is not Patch
    and kind.__module__ == module.__name__
    and kind.model_fields
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["ada", "t-1", "completed"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def names(kind: type[WireModel]) -> Iterator[str]:
    yield from kind.model_fields
    yield "unknown"


def decoded(kind: type[WireModel], body: bytes) -> WireModel | None:
    """The message, or None where the body is refused with a reason."""
    try:
        return decode(kind, body)
    except DecodeError as refused:
        told = refused.problems
    assert told
    return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_json_is_a_message_or_an_error(kind: type[WireModel], data: st.DataObject) -> None:
    body = json.dumps(data.draw(st.dictionaries(st.sampled_from(list(names(kind))), VALUES))).encode()
    message = decoded(kind, body)
    assert message is None or decode(kind, message.encode()) == message


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(kind: type[WireModel], body: bytes) -> None:
    decoded(kind, body)
