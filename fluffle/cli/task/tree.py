"""The parts of a task, as `fluffle task show` prints them: a tree with their outcomes."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.protocol.status import Status
from fluffle.client.handle import reason
from fluffle.presentation.output import cell, styled

if TYPE_CHECKING:
    from broker.protocol.views import TaskView
    from fluffle.client.client import Client

MAX_PARTS_SHOWN = 200


async def parts_of(asking: "Client", task_id: str) -> list["TaskView"]:
    """Return the parts of a task at any depth, with their results, the oldest first."""
    found = [view.id async for view in asking.tasks(within=task_id, limit=MAX_PARTS_SHOWN)]
    return await asyncio.gather(*(asking.task(id_) for id_ in reversed(found)))


def tree(parts: Sequence["TaskView"], task_id: str) -> Iterator[str]:
    """Yield a line for each part, below its parent."""
    below: dict[str, list[TaskView]] = {}
    for part in parts:
        below.setdefault(part.parent_id or "", []).append(part)
    yield from _branch(below, task_id, "")
    if len(parts) == MAX_PARTS_SHOWN:
        yield f"… only the newest {MAX_PARTS_SHOWN} are shown"


def _branch(below: Mapping[str, list["TaskView"]], task_id: str, indent: str) -> Iterator[str]:
    parts = below.get(task_id, [])
    for part in parts:
        is_last = part is parts[-1]
        llm = part.llm or part.assignee or "|".join(part.assignees)
        text = "  ".join(filter(None, (f"{part.id}", styled(part.status), llm, _outcome(part))))
        yield f"{indent}{'└' if is_last else '├'}─ {text}"
        yield from _branch(below, part.id, indent + ("   " if is_last else "│  "))


def _outcome(part: "TaskView") -> str:
    """Return the error or the result on one line."""
    if part.error is not None:
        return cell(reason(part))[:120]
    if part.status is not Status.COMPLETED:
        return ""
    return cell(_readable(part.result))[:120]


def _readable(result: Any) -> Any:
    match result:
        case {"choice": str(choice), "reason": reason_given}:
            return f"votes for {choice}: {reason_given}"
        case {"approved": bool(approved), "remarks": remarks}:
            return f"{'approved' if approved else 'sent back'}: {remarks}"
        case _:
            return result
