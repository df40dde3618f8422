"""Instances of one LLM that differ, the model of each attempt, and text that stops coming."""

from typing import Any

import pytest

from coordinator.core.commands import AnnounceLLM, Command, SendNotice
from coordinator.core.llms.view import llm_view
from coordinator.core.tasks.task import QUIET_AFTER
from tests.support.core_driver import LEASE, Core, moment
from tests.support.core_events import (
    claimed,
    completed,
    failed,
    left,
    progressed,
    resumed,
    retried,
    seen,
    submitted,
    waited,
)

QUIET = QUIET_AFTER / 1_000_000  # seconds


@pytest.fixture
def core() -> Core:
    return Core()


def notices(commands: list[Command]) -> dict[str, str]:
    """What instances are told, by their ids."""
    return {command.instance: command.text for command in commands if isinstance(command, SendNotice)}


def models(core: Core, task_id: str) -> list[str | None]:
    """The model of each attempt that is over."""
    return [attempt.model for attempt in core.task(task_id).attempts]


# -- instances that differ -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [{"model": "large", "skills": ["python"]}, {"model": "small", "skills": ["python", "review"]}]
)
def test_two_workers_of_one_name_with_different_profiles_both_get_a_notice(core: Core, other: dict[str, Any]) -> None:
    assert notices(core.handle(seen("atlas", "i1", model="small", skills=["python"]))) == {}
    told = notices(core.handle(seen("atlas", "i2", **other)))
    assert told.keys() == {"i1", "i2"}
    assert told["i1"].startswith(f"another worker of this name, i2, has model {other['model']}, skills python")
    assert told["i2"].endswith("; this one, i2, has model " + told["i1"].partition("has model ")[2].partition(";")[0])


def test_workers_that_say_the_same_are_told_nothing(core: Core) -> None:
    core.handle(seen("atlas", "i1", model="small", skills=["a", "b"]))
    assert notices(core.handle(seen("atlas", "i2", model="small", skills=["b", "a"], slots=4))) == {}


def test_that_workers_differ_is_told_once(core: Core) -> None:
    beats = seen("atlas", "i1", model="small"), seen("atlas", "i2", model="large")
    core.handle(*beats)
    assert notices(core.handle(*beats)) == {}
    core.restart()
    assert notices(core.handle(*beats)) == {}


def test_an_llm_whose_workers_differ_does_not_change_with_every_beat(core: Core) -> None:
    small, large = seen("atlas", "i1", model="small", skills=["a"]), seen("atlas", "i2", model="large", skills=["b"])
    core.handle(small, large)
    commands = core.handle(small) + core.handle(large) + core.handle(small)
    assert not [command for command in commands if isinstance(command, AnnounceLLM)]
    llm = core.machine.state.llms["atlas"]
    assert (llm.model, dict(llm.skills)) == ("large", {"b": 1.0})


def test_an_llm_is_what_is_left_of_it_when_the_last_worker_that_came_leaves(core: Core) -> None:
    core.handle(seen("atlas", "i1", model="small", skills=["a"]), seen("atlas", "i2", model="large", skills=["b"]))
    core.handle(submitted("t1", skills=["a"]))
    assert core.status("t1") == "pending"
    core.handle(left("atlas", "i2"))
    assert core.machine.state.llms["atlas"].model == "small"
    assert core.status("t1") == "assigned"


def test_each_instance_is_shown_where_they_differ(core: Core) -> None:
    core.handle(seen("atlas", "i1", model="small", skills=["a"]))
    llm = core.machine.state.llms["atlas"]
    assert "by_instance" not in llm_view(llm, {}, moment(0))
    core.handle(seen("atlas", "i2", model="large", slots=3))
    shown = llm_view(llm, {}, moment(0))["by_instance"]
    assert [(it["id"], it["model"], it["skills"], it["slots"]) for it in shown] == [
        ("i1", "small", {"a": 1.0}, 1),
        ("i2", "large", {}, 3),
    ]


# -- the model of an attempt ---------------------------------------------------------------------------------------


def test_an_attempt_has_the_model_of_the_instance_that_had_it(core: Core) -> None:
    core.handle(seen("atlas", "i1", model="small"), seen("atlas", "i2", model="large"))
    core.handle(submitted("t1"), submitted("t2"))
    core.handle(claimed("t1", instance="i1"), claimed("t2", instance="i2"))
    core.handle(completed("t1", instance="i1"), completed("t2", instance="i2"))
    assert (models(core, "t1"), models(core, "t2")) == (["small"], ["large"])
    assert core.task("t1").model == "small"


def test_an_llm_that_changes_its_model_keeps_that_of_earlier_attempts(core: Core) -> None:
    core.handle(seen("atlas", model="small"), submitted("t1"))
    core.handle(claimed("t1"))
    core.handle(seen("atlas", model="large", tasks=[("t1", 1)]))
    core.handle(failed("t1"))
    core.tick(at=5)
    core.handle(claimed("t1", 2))
    core.handle(completed("t1", 2))
    assert models(core, "t1") == ["small", "large"]


def test_a_lost_attempt_and_a_result_whose_claim_was_lost_have_their_models(core: Core) -> None:
    core.handle(seen("atlas", "i1", model="small"), submitted("t1"))
    core.handle(claimed("t1", instance="i1"))
    core.handle(seen("atlas", "i2", model="large"), at=LEASE - 1)
    core.tick(at=LEASE + 1)
    core.handle(completed("t1", 2, instance="i2"))
    assert models(core, "t1") == ["small", "large"]


def test_a_late_result_has_the_model_of_its_attempt(core: Core) -> None:
    core.handle(seen("atlas", "i1", model="small"), submitted("t1"))
    core.handle(claimed("t1", instance="i1"))
    core.handle(seen("atlas", "i2", model="large"), at=LEASE - 1)
    core.tick(at=LEASE + 1)
    core.handle(completed("t1", 1, instance="i1"))
    assert models(core, "t1") == ["small", "large"] or models(core, "t1") == ["small", None]
    assert core.task("t1").model == "small"


def test_a_retry_keeps_the_earlier_result_with_its_attempt(core: Core) -> None:
    core.handle(seen("atlas"), submitted("t1"))
    core.handle(claimed("t1"))
    core.handle(completed("t1", result={"first": 1}))
    core.machine.load(core.database.load(["t1"]))
    core.machine.handle(retried("t1"), now=moment(1))
    [(task, attempt, result)] = core.machine.take_changes().earlier_results
    assert (task.id, attempt, result) == ("t1", 1, {"first": 1})


# -- no text -------------------------------------------------------------------------------------------------------


def quiet_for(core: Core, task_id: str, *, at: float) -> float | None:
    """For how many seconds the running task has sent no text, if that is said."""
    since = core.machine.state.tasks[task_id].quiet_since(moment(at))
    return None if since is None else at - (since - moment(0)) / 1_000_000


def running(core: Core, model: str) -> None:
    core.handle(seen("atlas", model=model), submitted("t1"), at=0)
    core.handle(claimed("t1"), at=1)


def test_a_model_that_sends_no_text_for_long_is_reported(core: Core) -> None:
    running(core, "ollama:llama3.2")
    assert quiet_for(core, "t1", at=QUIET) is None
    assert quiet_for(core, "t1", at=91) == 90
    core.handle(progressed("t1", text="Hello"), at=5)
    assert quiet_for(core, "t1", at=QUIET + 4) is None
    assert quiet_for(core, "t1", at=95) == 90


@pytest.mark.parametrize("model", ["exec:cat", "handler:a:b", ""])
def test_what_need_not_send_text_is_told_only_after_it_has_sent_some(core: Core, model: str) -> None:
    running(core, model)
    core.handle(progressed("t1"), at=2)
    assert quiet_for(core, "t1", at=1000) is None
    core.handle(progressed("t1", text="Hello"), at=5)
    assert quiet_for(core, "t1", at=95) == 90


def test_the_time_that_an_attempt_waits_is_no_time_without_text(core: Core) -> None:
    running(core, "ollama:llama3.2")
    core.handle(waited("t1"), at=2)
    assert quiet_for(core, "t1", at=100) is None
    core.handle(seen("atlas", model="ollama:llama3.2", tasks=[("t1", 1)]), resumed("t1"), at=8)
    assert quiet_for(core, "t1", at=98) == 90


def test_a_coordinator_that_takes_over_begins_to_count_then(core: Core) -> None:
    running(core, "ollama:llama3.2")
    core.restart(at=50)
    assert quiet_for(core, "t1", at=60) is None
    assert quiet_for(core, "t1", at=140) == 90
