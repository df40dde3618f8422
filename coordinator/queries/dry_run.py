"""Who would get a task if it were submitted now: the real machine, on what the database knows, with nothing kept."""

from typing import Any

from sqlalchemy import Connection, select

from broker.errors import QueryRejected, did_you_mean
from broker.protocol.primitives import LOCAL, LOCAL_ONLY
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.timestamps import Instant, to_iso
from coordinator.core.commands import Refuse
from coordinator.core.events import Submitted
from coordinator.core.machine import Machine
from coordinator.core.tasks.task import DEFAULT_PRIORITY, Task, meets
from coordinator.storage.rows import llm_of
from coordinator.storage.schema import is_in_hand, llms, tasks
from coordinator.storage.store import lineage, tasks_of

_NAME = "dry-run"


def placement(connection: Connection, spec: Submission, machine: Machine, now: Instant) -> dict[str, Any]:
    """The fields of views.Placement, by a fresh machine. Raises QueryRejected when the task would be refused."""
    in_hand = connection.execute(select(tasks).where(is_in_hand)).mappings().all()
    known = [llm_of(row) for row in connection.execute(select(llms)).mappings()]
    if spec.parent_id:
        above = lineage(connection, [spec.parent_id])
        machine.load(
            tasks_of(connection, connection.execute(select(tasks).where(tasks.c.id.in_(above))).mappings().all())
        )
    machine.restore(tasks_of(connection, in_hand), known, [], now)
    priority = DEFAULT_PRIORITY if spec.priority is None else spec.priority
    for command in machine.handle(Submitted(_NAME, spec, priority), now=now):
        if isinstance(command, Refuse):
            raise QueryRejected(command.problems)
    task = machine.board.tasks[_NAME]
    return {"status": task.status.value, "llm": task.llm, "why": task.why or _why_not(machine, task)}


def _why_not(machine: Machine, task: Task) -> str:
    if task.status is Status.IN_PROGRESS:
        return "several LLMs get a part each"
    if task.waiting_on:
        return f"waits for {task.waiting_on} of the tasks that it depends on"
    if task.wake_at is not None:
        return f"waits until {to_iso(task.wake_at)}"
    if task.spec.assignee and (lacking := _lacking(machine, task, task.spec.assignee)):
        return f"waits for {task.spec.assignee}, {lacking}"
    able = [llm for llm in machine.board.llms.values() if meets(llm.offers(), task.lane.split())]
    online = [llm.name for llm in able if llm.state == "online"]
    if online:
        return f"waits for a free slot of {', '.join(online)}"
    if able:
        return f"waits for {', '.join(f'{llm.name}, which is {llm.state}' for llm in able)}"
    return f"no LLM that was ever seen {_lack(machine, task)}"


def _lacking(machine: Machine, task: Task, name: str) -> str | None:
    """Why the LLM that the task was given to by hand cannot do it; None when it can, or what it is lacks only time."""
    llm = machine.board.llms.get(name)
    if llm is None:
        return "which has never said hello"
    if LOCAL_ONLY in task.spec.labels and LOCAL not in llm.labels:
        return f"which is not labelled {LOCAL}, as the label {LOCAL_ONLY} of the task demands"
    return None


def _lack(machine: Machine, task: Task) -> str:
    """What keeps all LLMs from doing a task."""
    offered = {skill for llm in machine.board.llms.values() for skill in llm.skills}
    for skill in task.spec.skills:
        if skill not in offered:
            return f"has the skill {skill}{did_you_mean(skill, sorted(offered))}"
    if LOCAL_ONLY in task.spec.labels and not any(LOCAL in llm.labels for llm in machine.board.llms.values()):
        return f"has the label {LOCAL}"
    return "can do it"
