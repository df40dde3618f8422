"""The parts of a task, as `fluffle task show` prints them: a tree with what came of each."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.protocol.status import Status
from fluffle.client.handle import reason
from fluffle.presentation.output import cell, styled

if TYPE_CHECKING:
    from broker.protocol.views import TaskView
    from fluffle.client.client import Client

MOST = 200  # parts that are shown


async def parts_of(asking: "Client", task_id: str) -> list["TaskView"]:
    """The parts of a task and theirs, with their results, the oldest first."""
    found = [view.id async for view in asking.tasks(within=task_id, limit=MOST)]
    return await asyncio.gather(*(asking.task(id_) for id_ in reversed(found)))


def tree(parts: Sequence["TaskView"], task_id: str) -> Iterator[str]:
    """A line for each part, under the task that it is part of."""
    below: dict[str, list[TaskView]] = {}
    for part in parts:
        below.setdefault(part.parent_id or "", []).append(part)
    yield from _branch(below, task_id, "")
    if len(parts) == MOST:
        yield f"… only the newest {MOST} are shown"


def _branch(below: Mapping[str, list["TaskView"]], task_id: str, indent: str) -> Iterator[str]:
    theirs = below.get(task_id, [])
    for part in theirs:
        is_last = part is theirs[-1]
        who = part.llm or part.assignee or "|".join(part.assignees)
        told = "  ".join(filter(None, (f"{part.id}", styled(part.status), who, _outcome(part))))
        yield f"{indent}{'└' if is_last else '├'}─ {told}"
        yield from _branch(below, part.id, indent + ("   " if is_last else "│  "))


def _outcome(part: "TaskView") -> str:
    """What came of it, on one line."""
    if part.error is not None:
        return cell(reason(part))[:120]
    if part.status is not Status.COMPLETED:
        return ""
    return cell(_told(part.result))[:120]


def _told(result: Any) -> Any:
    match result:
        case {"choice": str(choice), "reason": reason_given}:
            return f"votes for {choice}: {reason_given}"
        case {"approved": bool(approved), "remarks": remarks}:
            return f"{'approved' if approved else 'sent back'}: {remarks}"
        case _:
            return result
