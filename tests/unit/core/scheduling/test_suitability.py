"""Context windows and abilities: which LLM a task must not get, and what is learned when it was too long."""

from typing import Any

import pytest

from broker.protocol.task_requests import ManageLLM
from coordinator.core.events import ManageRequested, RetryRequested
from coordinator.core.llms.duration_estimates import tokens
from coordinator.core.scheduling.policies import NAMES
from coordinator.policy_loader import load_policy
from tests.support.core_driver import Core
from tests.support.core_events import assignments, claimed, completed, failed, left, seen, submitted

LONG: dict[str, Any] = {"inputs": "x" * 70_000}  # 20,000 tokens
TOO_LONG = "context_too_long"


@pytest.fixture
def core() -> Core:
    return Core()


def managed(llm: str, **changes: Any) -> ManageRequested:
    return ManageRequested(ManageLLM.model_validate({"llm": llm, **changes}))


def refused(core: Core, task_id: str, llm: str, attempt: int = 1) -> list[tuple[str, int, str]]:
    """The task is too long for the LLM that has it; return what is assigned then."""
    core.handle(claimed(task_id, attempt, llm=llm))
    return assignments(core.handle(failed(task_id, attempt, llm=llm, kind=TOO_LONG, retryable=False)))


def test_tokens_are_estimated_from_the_characters() -> None:
    assert tokens(3_500) == 1_000


@pytest.mark.parametrize("policy", NAMES)
def test_a_task_goes_to_an_llm_whose_context_window_is_large_enough(policy: str) -> None:
    core = Core(policy=load_policy(policy))
    core.handle(seen("ada", context_window=8_000), seen("ben", context_window=32_000))
    assert assignments(core.handle(submitted("t", **LONG))) == [("t", 1, "ben")]


@pytest.mark.parametrize("policy", NAMES)
def test_a_long_task_waits_for_the_large_context_window_and_holds_up_no_short_one(policy: str) -> None:
    core = Core(policy=load_policy(policy))
    core.handle(seen("ada", context_window=8_000), seen("ben", context_window=32_000))
    core.handle(submitted("busy", assignee="ben"))
    long = [submitted(f"long{number:02}", **LONG) for number in range(30)]
    assert assignments(core.handle(*long, submitted("short"))) == [("short", 1, "ada")]


def test_the_line_tells_that_a_task_waits_because_of_its_length(core: Core) -> None:
    core.handle(seen("ada", context_window=8_000), seen("ben", context_window=32_000))
    core.handle(submitted("busy", assignee="ben"))
    core.handle(submitted("t", **LONG))
    assert core.task("t").why == "it has about 20573 tokens, and ada takes 8000"


def test_the_estimate_alone_keeps_no_task_from_the_only_llm(core: Core) -> None:
    core.handle(seen("ada", context_window=8_000))
    assert assignments(core.handle(submitted("t", **LONG))) == [("t", 1, "ada")]


def test_a_task_that_was_too_long_goes_to_a_larger_context_window_without_counting_the_attempt(core: Core) -> None:
    core.handle(seen("ada", context_window=8_000))
    core.handle(submitted("t", max_attempts=1))
    core.handle(seen("ben", context_window=4_000), seen("cleo", context_window=32_000))
    assert refused(core, "t", "ada") == [("t", 2, "cleo")]
    assert core.task("t").starts == 0
    core.handle(claimed("t", 2, llm="cleo"), completed("t", 2, llm="cleo"))
    assert core.status("t") == "completed"


def test_a_task_that_was_too_long_goes_to_an_unknown_context_window(core: Core) -> None:
    core.handle(seen("ada", context_window=8_000), submitted("t"), seen("ben"))
    assert refused(core, "t", "ada") == [("t", 2, "ben")]


def test_a_task_that_was_too_long_never_goes_back_and_waits_for_an_llm_that_is_offline(core: Core) -> None:
    core.handle(seen("ben", context_window=32_000))
    core.handle(left("ben"), seen("ada", context_window=8_000))
    core.handle(submitted("t"))
    assert refused(core, "t", "ada") == []
    assert core.status("t") == "pending"
    assert core.task("t").why == "it is too long for ada"
    assert assignments(core.handle(seen("ada"), at=30)) == []
    assert assignments(core.handle(seen("ben", context_window=32_000))) == [("t", 2, "ben")]


def test_a_task_that_is_too_long_for_all_known_llms_fails(core: Core) -> None:
    core.handle(seen("ada", context_window=8_000), submitted("t"), seen("ben", context_window=8_000))
    assert refused(core, "t", "ada") == []
    assert core.status("t") == "failed"
    assert (core.task("t").error and core.task("t").error.type) == TOO_LONG  # type: ignore[union-attr]


def test_a_task_for_one_llm_fails_when_it_is_too_long_for_it(core: Core) -> None:
    core.handle(seen("ada"), seen("ben"), submitted("t", assignee="ada"))
    refused(core, "t", "ada")
    assert core.status("t") == "failed"


def test_a_retry_tries_every_llm_again(core: Core) -> None:
    core.handle(seen("ada"), submitted("t"))
    refused(core, "t", "ada")
    commands = core.handle(RetryRequested("t", changes={"description": "shorter"}), at=5)
    assert assignments(commands) == [("t", 2, "ada")]


def test_a_context_window_is_learned_stored_and_believed(core: Core) -> None:
    core.handle(seen("ada"), submitted("t", **LONG))
    refused(core, "t", "ada")
    core.handle(seen("ada"))
    core.restart()
    core.handle(seen("ada"), seen("ben"))
    assert core.machine.state.llms["ada"].context_window == 20_572
    assert assignments(core.handle(submitted("u", **LONG))) == [("u", 1, "ben")]


def test_a_longer_task_that_succeeds_corrects_what_was_learned(core: Core) -> None:
    core.handle(seen("ada"), submitted("t"))
    refused(core, "t", "ada")
    core.handle(submitted("u", **LONG))
    core.handle(claimed("u", llm="ada"), completed("u", llm="ada"))
    assert core.machine.state.llms["ada"].context_window == 20_573


def test_an_operator_and_another_model_reset_what_was_learned(core: Core) -> None:
    for reset in (managed("ada", context_window=64_000), seen("ada", model="larger", context_window=64_000)):
        core.handle(seen("ada", "i1"), submitted(f"t-{reset.__class__.__name__}"))
        refused(core, f"t-{reset.__class__.__name__}", "ada")
        core.handle(reset)
        assert core.machine.state.llms["ada"].context_window == 64_000


def test_only_an_llm_with_the_abilities_gets_a_task_that_needs_them(core: Core) -> None:
    core.handle(seen("unknown"), seen("text", abilities=[]), seen("tools", abilities=["tools"]))
    assert assignments(core.handle(submitted("t", needs=["tools", "pictures"]))) == []
    commands = core.handle(seen("all", abilities=["pictures", "tools", "schema"]))
    assert assignments(commands) == [("t", 1, "all")]
    assert core.task("t").why == "the only LLM with pictures, tools online"


def test_an_operator_says_what_an_llm_can_do(core: Core) -> None:
    core.handle(seen("ada"), submitted("t", needs=["schema"]))
    assert assignments(core.handle(managed("ada", abilities=["schema"]))) == [("t", 1, "ada")]


def test_an_llm_of_unknown_abilities_gets_tasks_that_need_none(core: Core) -> None:
    assert assignments(core.handle(seen("ada"), submitted("t"))) == [("t", 1, "ada")]


def test_the_label_local_counts_for_nothing_where_labels_are_not_trusted() -> None:
    core = Core(trusts_labels=False)
    core.handle(seen("ada", labels=["local"]), submitted("secret", labels=["local-only"]))
    assert core.status("secret") == "pending"
    assert assignments(core.handle(managed("ada", local=True))) == [("secret", 1, "ada")]
    core.restart()
    core.handle(seen("ben", labels=["local"]), submitted("other", labels=["local-only"], excluded=["ada"]))
    assert core.status("other") == "pending"


def test_an_operator_overrules_the_label_local(core: Core) -> None:
    core.handle(seen("ada", labels=["local"]), managed("ada", local=False))
    assert assignments(core.handle(submitted("secret", labels=["local-only"]))) == []
    assert assignments(core.handle(managed("ada", local=None))) == [("secret", 1, "ada")]
