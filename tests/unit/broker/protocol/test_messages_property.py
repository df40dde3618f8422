"""Whatever the bytes are, they are a message or an error with a path, and never anything else."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import DecodeError
from broker.protocol import messages
from broker.protocol.messages import Wish
from broker.protocol.primitives import Wire, decode

KINDS = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Wire) and kind not in (Wire, Wish) and kind.model_fields
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["ada", "t-1", "completed"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def names(kind: type[Wire]) -> Iterator[str]:
    yield from kind.model_fields
    yield "unknown"


def decoded(kind: type[Wire], body: bytes) -> Wire | None:
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
def test_any_json_is_a_message_or_an_error(kind: type[Wire], data: st.DataObject) -> None:
    body = json.dumps(data.draw(st.dictionaries(st.sampled_from(list(names(kind))), VALUES))).encode()
    message = decoded(kind, body)
    assert message is None or decode(kind, message.encode()) == message


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(kind: type[Wire], body: bytes) -> None:
    decoded(kind, body)
