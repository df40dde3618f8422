"""The demo's cast and plan: three LLMs, a task for each file, one that merges the answers, one that reviews the whole.

The tasks go in as any AMQP client would send them: JSON published to `fluffle.tasks`, answers to `reply_to`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import ConfigurationError
from broker.ids import uuid7
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.topology import EVENTS, TASKS, Binding, Queue, Topology
from broker.protocol.views import Rejection, TaskView
from fluffle.client.events import TASK_EVENTS, Event

CAST = {
    "ada": {"summarise": 1.0},
    "ben": {"summarise": 0.8, "edit": 1.0},
    "cleo": {"review": 1.0},
}
MOST_BYTES = 200_000  # of one file
FOOTNOTE = """
The model `demo` is an offline extractive summariser: it picks sentences and writes none. To see a real LLM do it:
    fluffle demo --model ollama:llama3.2
    fluffle demo --model openai:gpt-6-luna      with OPENAI_API_KEY set
    fluffle demo --exec 'llm -m …'              any command that reads a prompt and prints an answer"""


@dataclass(slots=True)
class Scene:
    """One task of the demo as it stands."""

    title: str
    submission: Submission
    view: TaskView | None = None
    error: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.error is not None or (self.view is not None and self.view.status.is_final)

    @property
    def completed(self) -> bool:
        """Whether it has a result."""
        return self.view is not None and self.view.status is Status.COMPLETED


def plan(files: Sequence[Path]) -> list[Scene]:
    """A scene for each file, then the editor's and the reviewer's. Raises ConfigurationError for an unreadable file."""
    scenes = [Scene(_title(path), _summary(path)) for path in files]
    summaries = [scene.submission.id or "" for scene in scenes]
    edit = Submission(
        id=str(uuid7()),
        description="Merge the summaries into one digest, without repetitions",
        skills=["edit"],
        depends_on=summaries,
    )
    review = Submission(
        id=str(uuid7()),
        description="Review the digest against the summaries that it was made from",
        skills=["review"],
        depends_on=[*summaries, edit.id or ""],
    )
    return [*scenes, Scene("the digest", edit), Scene("the review", review)]


def _title(path: Path) -> str:
    """The path as people know it: relative to the current folder where it is inside it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _summary(path: Path) -> Submission:
    try:
        text = path.read_bytes()[:MOST_BYTES].decode(errors="replace").replace("\x00", "")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    if not text.strip():
        raise ConfigurationError(f"{path} holds no text")
    return Submission(
        id=str(uuid7()),
        description=f"Summarise {_title(path)}",
        skills=["summarise"],
        inputs={"title": _title(path), "text": text},
        labels=["demo"],
    )


@dataclass(slots=True)
class Performance:
    """The scenes being played: publishes the tasks, follows the events, collects the answers."""

    link: RobustConnection
    scenes: list[Scene]
    on_change: Callable[[Scene], None]
    _replies: str = field(default_factory=lambda: f"demo.replies.{uuid7()}")
    _events: str = field(default_factory=lambda: f"demo.events.{uuid7()}")
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self) -> None:
        """Publish every task and wait until all have ended."""
        queues = Queue(self._replies, exclusive=True), Queue(self._events, exclusive=True)
        await self.link.declare(
            Topology(
                queues=queues,
                bindings=(*(Binding(EVENTS, source.routing_key, self._events) for source in TASK_EVENTS),),
            )
        )
        await self.link.consume(self._replies, self._on_answer, auto_ack=True)
        await self.link.consume(self._events, self._on_event, auto_ack=True)
        for scene in self.scenes:
            task_id = scene.submission.id
            body = scene.submission.encode()
            await self.link.publish(
                Outgoing(TASKS, "submit", body, reply_to=self._replies, correlation_id=task_id, message_id=task_id)
            )
        await self._done.wait()

    def _on_answer(self, delivery: Delivery) -> None:
        scene = self._scene(delivery.properties.correlation_id)
        if scene is None:
            return
        if delivery.properties.type == "task.rejected":
            rejection = Rejection.model_validate_json(delivery.body)
            scene.error = "; ".join(f"{wrong.path}: {wrong.message}" for wrong in rejection.errors)
            self._changed(scene)
        elif scene.view is None or delivery.properties.type != "task.accepted":  # an event may have been quicker
            self._update(scene, TaskView.model_validate_json(delivery.body))

    def _on_event(self, delivery: Delivery) -> None:
        event = Event.model_validate_json(delivery.body)
        if scene := self._scene(event.subject):
            self._update(scene, event.data)

    def _update(self, scene: Scene, view: TaskView) -> None:
        if not scene.over and (scene.view is None or view.status is not scene.view.status or view.status.is_final):
            scene.view = view
            self._changed(scene)

    def _changed(self, scene: Scene) -> None:
        self.on_change(scene)
        if all(scene.over for scene in self.scenes):
            self._done.set()

    def _scene(self, task_id: str | None) -> Scene | None:
        return next((scene for scene in self.scenes if scene.submission.id == task_id), None)
