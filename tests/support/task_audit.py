"""A checker outside the system: what was submitted, what was really done, and whether the books agree.

It knows the submissions because the test tells it, the effects because handlers append to its file (see
tests/support/recording_llms.py), the completions that were announced because it has a queue of its own for them, and
the books because it reads the database. It asks no part of the system.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.amqp import Amqp, amqp
from tests.support.site import Site

ANNOUNCED = "ledger.completions"
FINAL = ("completed", "failed", "cancelled")


class Ledger:
    """The ledger of one site. Give `env` to its workers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._effects = site.state / "effects.jsonl"
        self.env = {"EFFECTS": str(self._effects)}
        self.submitted: set[str] = set()
        self._kept: dict[str, str] = {}
        self._announced: dict[str, set[str]] = {}  # ids of the events of every completed task
        with amqp(site.url) as client:
            client.queue(("fluffle.events", "task.completed.*"), name=ANNOUNCED, durable=True)
        site.queues.add(ANNOUNCED)

    def note(self, *task_ids: str) -> None:
        """These tasks were submitted and accepted."""
        self.submitted.update(task_ids)

    def effects(self, what: str = "done", *, since: int = 0) -> list[dict[str, Any]]:
        """Every effect of that kind since a mark, in the order in which they happened."""
        if not self._effects.exists():
            return []
        with self._effects.open("rb") as file:
            if since > 0:
                file.seek(since - 1)
                file.readline()
            return [effect for effect in map(json.loads, file) if effect["what"] == what]

    def mark(self) -> int:
        """The present moment, for `effects`: bytes of its file. Some way before it is a moment, too."""
        return self._effects.stat().st_size if self._effects.exists() else 0

    def keep(self, task_id: str, token: str) -> None:
        """This answer was finished and cannot be anything but the result of the task."""
        self._kept[task_id] = token

    def done(self) -> int:
        """How many effects of the kind `done` there are; cheaper than `effects`."""
        return self._effects.read_bytes().count(b'"what": "done"') if self._effects.exists() else 0

    def refused(self) -> list[str]:
        """What is in the rejected queue, which is empty after that."""
        with amqp(self._site.url) as client:
            return [f"{it.routing_key}: {it.headers} {it.body[:200]!r}" for it in client.take_all("fluffle.rejected")]

    def problems(self, *, rejected: int = 0) -> list[str]:
        """Everything that is not as it must be, once all is at rest and no process runs (see Site.drain).

        `rejected` is how many messages there have to be in the rejected queue.
        """
        with amqp(self._site.url) as client:
            self._hear(client)
            depths = {queue: client.depth(queue) for queue in self._site.queues}
        wanted = {queue: rejected if queue == "fluffle.rejected" else 0 for queue in depths}
        return [
            *(f"{queue} holds {depths[queue]} messages" for queue in depths if depths[queue] != wanted[queue]),
            *self._tasks(),
            *self._completions(),
            *self._leases(),
        ]

    def _hear(self, client: Amqp) -> None:
        for message in client.take_all(ANNOUNCED):
            event = message.json()
            self._announced.setdefault(event["subject"], set()).add(event["id"])

    def _tasks(self) -> Iterator[str]:
        """Accepted = completed + failed + cancelled."""
        status = dict(self._site.select("select id, status from tasks"))
        yield from _each("was accepted and is not in the books", self.submitted - status.keys())
        yield from _each("is in the books and was not submitted", status.keys() - self.submitted)
        yield from _each("is not over", [task_id for task_id in status if status[task_id] not in FINAL])

    def _completions(self) -> Iterator[str]:
        """A completed task has one completed attempt, one event that said so, and the result of a real effect."""
        books = self._site.select("select id, result from tasks where status = 'completed'")
        rows = self._site.select(
            "select id, a.attempt from attempts a join tasks on seq = task_seq where outcome = 'completed'"
        )
        recorded = Counter(task_id for task_id, _ in rows)
        attempt = dict(rows)
        made: dict[str, dict[str, int]] = {}  # task -> the token of every effect -> the attempt that had it
        for effect in self.effects():
            made.setdefault(effect["task"], {})[effect["token"]] = effect["attempt"]
        results = {task_id: json.loads(result) for task_id, result in books}
        completed = list(results)
        yield from _each("was not recorded once", [task_id for task_id in completed if recorded[task_id] != 1])
        yield from _each("is recorded and not completed", recorded.keys() - set(completed))
        unmade = [i for i, token in results.items() if token not in made.get(i, ())]
        yield from _each("has a result that nobody made", unmade)
        others = [i for i, token in results.items() if i not in unmade and made[i][token] != attempt.get(i)]
        yield from _each("has a result that another attempt made than the books say", others)
        yield from _each("has another result than the one that was kept for it", self._unpaid(results))
        yield from _each("was not announced once", [i for i in completed if len(self._announced.get(i, ())) != 1])
        yield from _each("was announced and is not completed", self._announced.keys() - set(completed))

    def _unpaid(self, results: dict[str, str]) -> list[str]:
        return [task_id for task_id, token in self._kept.items() if results.get(task_id) != token]

    def _leases(self) -> Iterator[str]:
        """Nobody holds anything any more, and nothing is left to publish."""
        held = self._site.select("select name, instances from llms where instances != '{}'")
        yield from (f"{name} still has instances: {instances}" for name, instances in held)
        [(unsent,)] = self._site.select("select count(*) from outbox")
        if unsent:
            yield f"{unsent} batches are in the outbox"


def _each(what: str, task_ids: Iterable[str]) -> Iterator[str]:
    found = sorted(task_ids)
    if found:
        yield f"{len(found)} tasks: {what}: {', '.join(found[:5])}"
