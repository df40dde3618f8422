"""Backlogs that are larger than the window of tasks in memory."""

from collections import deque

import pytest

from coordinator import batch as batch_processor
from coordinator.storage.store import Store
from tests.support.batches import (
    BatchHarness,
    answers,
    assigned,
    claim,
    hello,
    result,
    submit,
)
from tests.support.stored_tasks import a_task, stored


def test_a_backlog_larger_than_the_window_is_assigned_in_order_of_rank(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_processor, "WINDOW", 2000)
    backlog = [
        a_task(n, priority=n % 3 + 3, due=f"2027-02-{1 + n % 28:02}T00:00:00Z" if n % 5 == 0 else None)
        for n in range(1, 20_001)
    ]
    stored(store, *backlog)
    harness = BatchHarness(store)
    harness.process(hello(slots=1500))  # the first that can do them: they come from the database for the next batch
    done = assigned(harness.process())
    for _ in range(2):
        urgent = [submit(f"urgent-{len(done)}", priority=9)]
        done += assigned(harness.process(hello(slots=1500), *(result(task_id) for task_id in done[-1500:]), *urgent))
        assert len(harness.processor._machine.state.tasks) <= 1500 + 2 * 2000
    expected = [task.id for task in sorted(backlog, key=lambda task: task.rank)]
    assert [task_id for task_id in done if not task_id.startswith("urgent")] == expected[: len(done) - 2]
    assert [n for n, task_id in enumerate(done) if task_id.startswith("urgent")] == [1500, 3000]


def test_a_burst_larger_than_the_window_is_completed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_processor, "WINDOW", 2000)
    harness = BatchHarness(store)
    inbox = deque([hello(slots=1000), *(submit(f"t{number}") for number in range(8000))])
    done = 0
    while inbox:
        messages = harness.process(*(inbox.popleft() for _ in range(min(500, len(inbox)))))
        taken = assigned(messages)
        inbox.extendleft(report for task_id in taken for report in (result(task_id), claim(task_id)))
        done += [kind for kind, _ in answers(messages)].count("task.completed")
    assert done == 8000
