"""An audit from outside the system: does the database agree with the submissions and the real effects?

The test reports the submissions, handlers append their effects to a file (see tests/support/recording_llms.py), a
separate queue collects the announced completions, and the audit reads the database. It asks no part of the system.
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
        """Record that these tasks were submitted and accepted."""
        self.submitted.update(task_ids)

    def effects(self, what: str = "done", *, since: int = 0) -> list[dict[str, Any]]:
        """Return the effects of that kind since a mark, in order."""
        if not self._effects.exists():
            return []
        with self._effects.open("rb") as file:
            if since > 0:
                file.seek(since - 1)
                file.readline()
            return [effect for effect in map(json.loads, file) if effect["what"] == what]

    def mark(self) -> int:
        """Return a mark of the current time for `effects`: the size of its file in bytes."""
        return self._effects.stat().st_size if self._effects.exists() else 0

    def keep(self, task_id: str, token: str) -> None:
        """Record that this finished answer must become the result of the task."""
        self._kept[task_id] = token

    def done(self) -> int:
        """Return the number of effects of the kind `done`; cheaper than `effects`."""
        return self._effects.read_bytes().count(b'"what": "done"') if self._effects.exists() else 0

    def refused(self) -> list[str]:
        """Take all messages out of the rejected queue."""
        with amqp(self._site.url) as client:
            return [f"{it.routing_key}: {it.headers} {it.body[:200]!r}" for it in client.take_all("fluffle.rejected")]

    def problems(self, *, rejected: int = 0) -> list[str]:
        """Return all violations, once no process runs (see Site.drain).

        `rejected` is the expected length of the rejected queue.
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
        """Check that accepted = completed + failed + cancelled."""
        status = dict(self._site.select("select id, status from tasks"))
        yield from _each("was accepted and is not in the database", self.submitted - status.keys())
        yield from _each("is in the database and was not submitted", status.keys() - self.submitted)
        yield from _each("is not over", [task_id for task_id in status if status[task_id] not in FINAL])

    def _completions(self) -> Iterator[str]:
        """Check that a completed task has one completed attempt, one event, and the result of a real effect."""
        stored = self._site.select("select id, result from tasks where status = 'completed'")
        rows = self._site.select(
            "select id, a.attempt from attempts a join tasks on seq = task_seq where outcome = 'completed'"
        )
        recorded = Counter(task_id for task_id, _ in rows)
        attempt = dict(rows)
        made: dict[str, dict[str, int]] = {}  # task -> the token of every effect -> the attempt that had it
        for effect in self.effects():
            made.setdefault(effect["task"], {})[effect["token"]] = effect["attempt"]
        results = {task_id: json.loads(result) for task_id, result in stored}
        completed = list(results)
        yield from _each("was not recorded once", [task_id for task_id in completed if recorded[task_id] != 1])
        yield from _each("is recorded and not completed", recorded.keys() - set(completed))
        unmade = [i for i, token in results.items() if token not in made.get(i, ())]
        yield from _each("has a result that nobody made", unmade)
        others = [i for i, token in results.items() if i not in unmade and made[i][token] != attempt.get(i)]
        yield from _each("has a result of another attempt than the database says", others)
        yield from _each("has another result than the one that was kept for it", self._unpaid(results))
        yield from _each("was not announced once", [i for i in completed if len(self._announced.get(i, ())) != 1])
        yield from _each("was announced and is not completed", self._announced.keys() - set(completed))

    def _unpaid(self, results: dict[str, str]) -> list[str]:
        return [task_id for task_id, token in self._kept.items() if results.get(task_id) != token]

    def _leases(self) -> Iterator[str]:
        """Check that no lease is held and no message is left to publish."""
        held = self._site.select("select name, instances from llms where instances != '{}'")
        yield from (f"{name} still has instances: {instances}" for name, instances in held)
        [(unsent,)] = self._site.select("select count(*) from outbox")
        if unsent:
            yield f"{unsent} batches are in the outbox"


def _each(what: str, task_ids: Iterable[str]) -> Iterator[str]:
    found = sorted(task_ids)
    if found:
        yield f"{len(found)} tasks: {what}: {', '.join(found[:5])}"
