"""Counters, traces and log lines of batches."""

from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from broker.protocol.primitives import MAX_BODY_BYTES
from broker.protocol.topology import REJECTED, STATUS
from broker.timestamps import seconds
from coordinator import batch as batch_processor
from coordinator.batch import BatchProcessor
from coordinator.storage.store import Store
from coordinator.telemetry.counters import Counters
from tests.support.batches import LEASE, BatchHarness, assigned, claim, delivery, hello, result, submit
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD


def test_an_error_in_telemetry_does_not_prevent_a_result_from_being_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Mock(side_effect=RuntimeError("nothing is counted today"))
    harness = BatchHarness(store)
    counters = Mock(count=broken)
    tracing = Mock(take_in=broken, committed=broken, assigned=broken)
    monkeypatch.setattr(harness.processor, "_counters", counters)
    monkeypatch.setattr(harness.processor, "_tracing", tracing)
    monkeypatch.setattr(batch_processor, "close_period", broken)
    said = harness.process(hello(), submit("t1"))
    assert assigned(said) == ["t1"]
    said = harness.process(claim("t1"), result("t1"))
    assert harness.views()["t1"]["result"] == "T1"
    assert not [message for message in said if message.exchange == REJECTED]
    assert broken.call_count > 4


def test_ignored_fields_of_a_report_are_counted_and_logged(store: Store) -> None:
    counters = Counters()
    books = BatchProcessor(
        store, clock=lambda: T0, lease=seconds(LEASE), lead=LEAD, max_body=MAX_BODY_BYTES, counters=counters
    )
    books.rebuild()
    report = {"name": "atlas", "instance": "i1", "model": "x" * 500, "pid": 7, "tasks": None}
    with capture_logs() as logs:
        books.process([delivery(STATUS, "atlas.hello", report)])
    assert list(books.llms().by_name) == ["atlas"]
    assert counters.ignored == 2
    [line] = [line for line in logs if line["event"] == "ignored a part of a report"]
    assert (line["log_level"], line["routing_key"]) == ("debug", "atlas.hello")
    assert all(word in line["parts"] for word in ("model", "pid"))
