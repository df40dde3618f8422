"""The traceparent header."""

import pytest

from broker.telemetry.traceparent import in_trace, trace_of

ONE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_is_found_among_other_headers() -> None:
    assert trace_of({"x": 1, "traceparent": ONE}) == ONE
    assert trace_of(in_trace(ONE)) == ONE


@pytest.mark.parametrize(
    "header",
    [
        None,
        7,
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "",
        ONE.upper(),
        f"{ONE}\n",
        f"{ONE}-more",
        ONE.replace("00-", "ff-", 1),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ],
)
def test_a_malformed_traceparent_is_ignored(header: object) -> None:
    assert trace_of({"traceparent": header}) is None


def test_without_a_trace_there_is_no_header() -> None:
    assert trace_of(None) is trace_of({}) is None
    assert in_trace(None) is None
