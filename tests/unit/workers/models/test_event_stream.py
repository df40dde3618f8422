"""A streamed answer is checked and put right, however its bytes are cut, and every other stream passes as it is."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.models.provider.event_stream import EventStream, IncompleteAnswer, chat_usage
from workers.models.provider.http_client import shown_url


def line(event: dict[str, Any] | str) -> bytes:
    return b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"


def chunk(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return line({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


def passed(*data: bytes) -> bytes:
    stream = EventStream()
    return b"".join(map(stream.feed, data)) + stream.close()


def events(data: bytes) -> list[Any]:
    found = [it.removeprefix(b"data:").strip() for it in data.split(b"\n") if it.startswith(b"data:")]
    return [json.loads(it) if it[:1] == b"{" else it.decode() for it in found]


DONE = line("[DONE]")
TOTALS = [{"prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n} for n in (1, 2)]


@pytest.mark.parametrize(
    "ending",
    [
        [DONE],
        [chunk(None, "stop")],
        [chunk(None, "stop"), DONE],
        [b"data:[DONE]\r\n\r\n"],
        [chunk("!", "stop").rstrip(b"\n")],
        [line({"error": {"message": "slow down"}})],
    ],
)
def test_a_chat_completion_is_whole_with_a_reason_to_finish_or_its_last_event(ending: list[bytes]) -> None:
    assert events(passed(chunk("Hello"), *ending))[0] == events(chunk("Hello"))[0]


@pytest.mark.parametrize(
    "data",
    [
        chunk("Hello"),
        chunk("Hello", ""),
        chunk('say "finish_reason": "stop" and\ndata: [DONE]'),
        b'event: message_start\ndata: {"type": "message_start"}\n\n',
        b'event: response.created\ndata: {"type": "response.created"}\n\n',
    ],
)
def test_an_answer_without_its_end_is_incomplete(data: bytes) -> None:
    with pytest.raises(IncompleteAnswer):
        passed(data)


@pytest.mark.parametrize("ending", ["message_stop", "error"])
def test_a_message_of_anthropic_ends_with_its_last_event(ending: str) -> None:
    data = f"event: message_start\ndata: {{}}\n\nevent: {ending}\ndata: {{}}\n\n".encode()
    assert passed(data).rstrip() == data.rstrip()


@pytest.mark.parametrize("data", [b"", b": keep-alive\n\n", b'data: {"candidates": []}\n\n', b"\x00\xff\nwhatever"])
def test_a_stream_of_another_kind_passes_as_it_is(data: bytes) -> None:
    assert passed(data).rstrip() == data.rstrip()


def test_running_totals_become_one_usage_before_the_end() -> None:
    data = passed(chunk("a", usage=TOTALS[0]), chunk("b", usage=TOTALS[1]), chunk(None, "stop"), DONE)
    *answer, usage, done = events(data)
    assert [event["usage"] for event in answer[:2]] == [None, None]
    assert (usage["choices"], usage["usage"], done) == ([], TOTALS[1], "[DONE]")


def test_a_usage_is_passed_on_where_the_stream_has_no_last_event() -> None:
    assert events(passed(chunk("a", "stop", usage=TOTALS[0])))[-1]["usage"] == TOTALS[0]


def test_an_error_that_is_a_text_becomes_one_with_a_message() -> None:
    assert events(passed(chunk("a"), line({"error": "CUDA out of memory"})))[-1] == {
        "error": {"message": "CUDA out of memory"}
    }


def test_the_usage_of_another_protocol_is_left_alone() -> None:
    data = line({"type": "message_delta", "usage": {"output_tokens": 3}})
    assert passed(data).rstrip() == data.rstrip()


PARTS = [chunk("a"), chunk("b", usage=TOTALS[1]), b": hello\r\n\r\n", b"data:\n\n", DONE]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PARTS)), st.data())
def test_bytes_may_be_cut_anywhere(parts: list[bytes], draw: st.DataObject) -> None:
    whole = b"".join([*parts, chunk(None, "stop"), DONE])
    places = sorted(draw.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    assert passed(*pieces) == passed(whole)


FIGURES = st.none() | st.integers() | st.floats() | st.booleans() | st.sampled_from(["7", "-7", "x", "", "9" * 40])
NAMES = st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, FIGURES | st.dictionaries(NAMES, FIGURES)))
def test_whatever_a_server_sends_as_usage_is_a_figure_or_left_out(usage: dict[str, Any]) -> None:
    found = chat_usage(usage)
    if found is not None:
        assert all(0 <= found[name] <= 2 * 10**12 for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
        json.dumps(found, allow_nan=False)


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    assert shown_url("http://me:secret@host:8000/v1/?key=secret") == "http://host:8000/v1/"
