"""Assignments that cannot reach an LLM: too large to be sent, or returned because the LLM's queue is gone."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.primitives import MAX_ASSIGNMENT_BYTES
from broker.protocol.topology import WORK, llm_address
from broker.protocol.worker_reports import Failure, Result
from coordinator.core.events import Event, Reported
from coordinator.core.tasks.task import COORDINATOR, Task


class UnsendableAssignments:
    """Collects assignments that are too large, until the core learns that these attempts failed."""

    def __init__(self) -> None:
        self._too_large: dict[str, int] = {}  # tasks, and the size of their assignments in bytes
        self._refused: deque[tuple[str, int]] = deque()  # the same; filled by another thread

    def refused(self, assignment: Outgoing) -> None:
        """RabbitMQ refused an assignment because of its size. Any thread may report that."""
        self._refused.append((task_of(assignment), len(assignment.body)))

    def too_large(self, message: Outgoing) -> bool:
        """Whether a message is an assignment that is too large; remembers the assignment."""
        if message.exchange != WORK or not message.message_id or len(message.body) <= MAX_ASSIGNMENT_BYTES:
            return False
        self._too_large[task_of(message)] = len(message.body)
        return True

    def take_failures(self, tasks: Mapping[str, Task]) -> list[Event]:
        """Return the assignments collected since the last call as failed attempts."""
        too_large, self._too_large = self._too_large, {}
        while self._refused:
            task_id, size = self._refused.popleft()
            too_large[task_id] = size
        held = [(task, size) for task_id, size in too_large.items() if (task := tasks.get(task_id)) and task.in_hand]
        return [Reported(task.llm, _failed(task, size)) for task, size in held if task.llm]


def returned_assignments(
    batch: Sequence[Delivery], tasks: Mapping[str, Task], load: Callable[[Iterable[str]], Iterable[Task]]
) -> set[int]:
    """Return the places in the batch of assignments that RabbitMQ returned because the LLM's queue is gone.

    By now such a task may be at another LLM, or finished: `load` loads those that are not among `tasks`.
    """
    named: dict[int, tuple[str, str]] = {}
    for place, delivery in enumerate(batch):
        if delivery.exchange == WORK:
            task_id, _, attempt = (delivery.properties.message_id or "").rpartition("/")
            named[place] = task_id, attempt
    if not named:
        return set()
    known = {task.id: task for task in load({task_id for task_id, _ in named.values()} - tasks.keys())}
    returned = set()
    for place, (task_id, attempt) in named.items():
        task = tasks.get(task_id) or known.get(task_id)
        if task is not None and (attempt, batch[place].routing_key) in _assignments_of(task):
            returned.add(place)
    return returned


def task_of(assignment: Outgoing) -> str:
    """Return the id of the task of an assignment."""
    return (assignment.message_id or "").rpartition("/")[0]


def _failed(task: Task, size: int) -> Result:
    limit = f"the limit is {MAX_ASSIGNMENT_BYTES:,}" if size > MAX_ASSIGNMENT_BYTES else "RabbitMQ takes less"
    message = f"the task and the results it builds on have {size:,} bytes; {limit}"
    error = Failure(type="assignment_too_large", message=message, retryable=False)
    return Result(task_id=task.id, attempt=task.attempt, instance=COORDINATOR, outcome="failed", error=error)


def _assignments_of(task: Task) -> set[tuple[str, str]]:
    """Return every assignment that a task had: the attempt, and the routing key."""
    given = {(str(ended.attempt), llm_address(ended.llm)) for ended in task.attempts}
    return given | {(str(task.attempt), llm_address(task.llm or ""))}
