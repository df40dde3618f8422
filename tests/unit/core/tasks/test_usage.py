"""What an attempt uses: reported while it runs and at its end, and kept however it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol.worker_reports import ModelUsage, Usage
from coordinator.core.usage import at_least, cost_is_known
from tests.support.core_driver import Core
from tests.support.core_events import cancelled, claimed, completed, failed, gave_up, left, progressed, seen, submitted

SO_FAR = Usage(input_tokens=100, output_tokens=10, requests=1, cost_usd=0.25)


def used(core: Core) -> list[Usage | None]:
    """What the attempts of the task used."""
    return [attempt.usage for attempt in core.task("t").attempts]


def test_the_usage_so_far_is_stored_with_the_task(running: Core) -> None:
    running.handle(progressed("t", usage=SO_FAR))
    running.restart()
    assert running.task("t").usage == SO_FAR
    running.handle(seen("atlas", tasks=[("t", 1)]), completed("t"))
    assert used(running) == [SO_FAR]


def test_a_running_total_never_goes_down(running: Core) -> None:
    running.handle(progressed("t", usage=SO_FAR), progressed("t", usage=Usage(input_tokens=90, output_tokens=20)))
    running.handle(completed("t", usage=Usage(cached_tokens=5, requests=0)))
    assert used(running) == [SO_FAR.model_copy(update={"output_tokens": 20, "cached_tokens": 5})]


def test_a_result_without_usage_keeps_what_was_reported(running: Core) -> None:
    running.handle(progressed("t", usage=SO_FAR), failed("t"))
    assert used(running) == [SO_FAR]


def test_a_lost_attempt_keeps_its_usage_and_the_next_one_begins_without(running: Core) -> None:
    running.handle(progressed("t", usage=SO_FAR), left("atlas"))
    assert used(running) == [SO_FAR]
    running.handle(seen("boreas"), claimed("t", 2, llm="boreas"))
    running.handle(completed("t", 2, llm="boreas", usage=Usage(input_tokens=1)))
    assert used(running) == [SO_FAR, Usage(input_tokens=1)]


def test_an_attempt_that_is_timed_out_keeps_its_usage(atlas: Core) -> None:
    atlas.handle(submitted("t", timeout=5, max_attempts=1), at=0)
    atlas.handle(claimed("t"), progressed("t", usage=SO_FAR), at=0)
    for at in range(1, 20):
        atlas.handle(seen("atlas", tasks=[("t", 1)]), at=at)
        atlas.tick(at=at)
    assert atlas.status("t") == "failed"
    assert used(atlas) == [SO_FAR]


def test_usage_of_another_attempt_or_instance_is_ignored(running: Core) -> None:
    running.handle(progressed("t", 2, usage=SO_FAR), progressed("t", instance="i2", usage=SO_FAR))
    assert running.task("t").usage is None


def test_a_stopped_worker_tells_what_it_used_after_the_attempt_is_over(running: Core) -> None:
    running.handle(progressed("t", usage=SO_FAR), cancelled("t"))
    whole = SO_FAR.model_copy(update={"output_tokens": 50})
    assert running.handle(gave_up("t", usage=whole)) == []
    running.restart()
    assert used(running) == [whole]
    assert running.task("t").usage == whole
    running.handle(gave_up("t", usage=SO_FAR))
    assert used(running) == [whole]


def test_a_late_failure_adds_the_usage_of_the_lost_attempt(running: Core) -> None:
    running.handle(left("atlas"))
    running.handle(seen("atlas", "i2"), failed("t", 1, usage=SO_FAR))
    assert used(running) == [SO_FAR]
    assert running.task("t").usage is None, "the usage of the present attempt is not known"


def test_a_late_result_keeps_what_was_reported_before(running: Core) -> None:
    running.handle(progressed("t", usage=SO_FAR), left("atlas"))
    running.handle(completed("t", usage=Usage(output_tokens=30)))
    assert used(running) == [SO_FAR.model_copy(update={"output_tokens": 30})]


def test_the_model_that_answered_is_the_model_of_the_attempt(core: Core) -> None:
    core.handle(seen("atlas", model="first"), submitted("t"))
    core.handle(claimed("t"))
    assert core.task("t").model == "first"
    core.handle(completed("t", model="second"))
    assert [attempt.model for attempt in core.task("t").attempts] == ["second"]
    assert core.task("t").model == "second"


def test_a_late_result_names_the_model_that_answered(core: Core) -> None:
    core.handle(seen("atlas", model="first"), submitted("t"))
    core.handle(claimed("t"), left("atlas"))
    core.handle(completed("t", model="second"))
    assert [attempt.model for attempt in core.task("t").attempts] == ["second"]


counts = st.none() | st.integers(0, 10**12)
costs = st.none() | st.integers(0, 10**15).map(lambda nanos: nanos / 10**9)
models = st.builds(ModelUsage, input_tokens=counts, reasoning_tokens=counts, cost_usd=costs)
usages = st.none() | st.builds(
    Usage,
    input_tokens=counts,
    reasoning_tokens=counts,
    cost_usd=costs,
    models=st.none() | st.dictionaries(st.sampled_from("ab"), models),
)


@given(st.lists(usages, max_size=4))
def test_no_model_has_more_than_the_whole_and_no_report_is_forgotten(reports: list[Usage | None]) -> None:
    usage: Usage | None = None
    for report in reports:
        usage = at_least(usage, report)
    given_ = [report for report in reports if report is not None]
    assert (usage is None) == (not given_)
    if usage is None:
        return
    for name in ("input_tokens", "reasoning_tokens", "cost_usd"):
        known = [value for report in given_ if (value := getattr(report, name)) is not None]
        parts = [value for its in (usage.models or {}).values() if (value := getattr(its, name)) is not None]
        whole = getattr(usage, name)
        assert (whole is None) == (not known and not parts)
        assert max(known, default=0) <= (whole or 0)
        assert sum(round(part * 10**9) for part in parts) <= round((whole or 0) * 10**9)
    assert at_least(usage, usage) == usage
    assert Usage.model_validate_json(usage.model_dump_json()) == usage


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (Usage(cost_usd=0.0), True),
        (Usage(input_tokens=1), False),
        (Usage(cost_usd=0.5, models={"a": ModelUsage(cost_usd=0.5)}), True),
        (Usage(cost_usd=0.5, models={"a": ModelUsage(cost_usd=0.5), "b": ModelUsage(input_tokens=1)}), False),
    ],
)
def test_a_cost_is_known_only_if_that_of_every_model_is(usage: Usage, known: bool) -> None:
    assert cost_is_known(usage) is known
