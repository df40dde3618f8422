"""Why a task waits, in words for people."""

from collections.abc import Mapping

from broker.errors import did_you_mean
from broker.protocol.primitives import LOCAL, LOCAL_ONLY
from broker.protocol.status import Status
from broker.timestamps import Instant, to_iso
from coordinator.core.health.view import why_not
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.suitability import unsuitable
from coordinator.core.tasks.task import Task, meets

LLMS_NAMED = 3


def why_waiting(task: Task, llms: Mapping[str, LLM], now: Instant) -> str:
    """Return what a task that is not running waits for, or why it failed at once."""
    if task.error is not None:
        return task.error.message
    if task.status is Status.IN_PROGRESS:
        return "several LLMs get a part each"
    if task.waiting_on:
        return f"waits for {task.waiting_on} of the tasks that it depends on"
    if task.waits_for is not None and task.why is not None:
        return task.why
    if task.wake_at is not None:
        return f"waits until {to_iso(task.wake_at)}"
    if task.spec.assignee and (lacking := _lacking(task, llms)):
        return f"waits for {task.spec.assignee}, {lacking}"
    able = {llm.name: llm for llm in llms.values() if meets(llm.offers(), task.lane.split())}
    available = [llm for llm in able.values() if llm.available]
    suitable = [llm for llm in available if not unsuitable(task, llm, able)]
    if names := [llm.name for llm in suitable if not llm.properties.reserve] or [llm.name for llm in suitable]:
        return task.why or f"waits for a free slot of {', '.join(names)}"
    if available:
        return f"waits: {', '.join(unsuitable(task, llm, able) or '' for llm in available)}"
    if online := [llm for llm in able.values() if llm.state == "online"]:
        return _none_available(online, now)
    if able:
        return f"waits for {', '.join(f'{llm.name}, which is {llm.state}' for llm in able.values())}"
    return f"no LLM that was ever seen {_lack(task, llms)}"


def _none_available(online: list[LLM], now: Instant) -> str:
    """Return why none of these LLMs gets tasks: each reason once."""
    reasons: dict[str, list[str]] = {}
    for llm in online:
        reasons.setdefault(why_not(llm, now) or "is busy", []).append(llm.name)
    if len(reasons) == 1:
        return next(iter(reasons))
    shown = [f"{', '.join(names)}: {reason}" for reason, names in list(reasons.items())[:LLMS_NAMED]]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {more} more reasons" if more else "")


def _lacking(task: Task, llms: Mapping[str, LLM]) -> str | None:
    """Return why the assignee cannot do the task; None when it can, or lacks only time."""
    llm = llms.get(task.spec.assignee or "")
    if llm is None:
        return "which has never connected"
    if LOCAL_ONLY in task.spec.labels and not llm.is_local:
        local = f"labelled {LOCAL}" if llm.label_counts else f"set to {LOCAL} by an operator"
        return f"which is not {local}, as the label {LOCAL_ONLY} of the task demands"
    if missing := [ability for ability in task.spec.needs if ability not in (llm.properties.abilities or ())]:
        return f"which is not known to be able to use {', '.join(missing)}"
    return None


def _lack(task: Task, llms: Mapping[str, LLM]) -> str:
    """Return what keeps all LLMs from doing a task."""
    offered = {skill for llm in llms.values() for skill in llm.skills}
    for skill in task.spec.skills:
        if skill not in offered:
            return f"has the skill {skill}{did_you_mean(skill, sorted(offered))}"
    for ability in task.spec.needs:
        if not any(ability in (llm.properties.abilities or ()) for llm in llms.values()):
            return f"is known to be able to use {ability}"
    if LOCAL_ONLY in task.spec.labels and not any(llm.is_local for llm in llms.values()):
        trusts_labels = any(llm.label_counts for llm in llms.values())
        return f"has the label {LOCAL}" if trusts_labels or not llms else f"was set to {LOCAL} by an operator"
    return "can do it"
