"""A model of how Celery hands out tasks: pushed in turn, held in advance.

Each worker takes up to four tasks for each of its processes from the queue, those that run included, and keeps them
until it has done them (`worker_prefetch_multiplier=4`, acknowledged late). RabbitMQ pushes the oldest task to the
next consumer in turn that has room. There is a queue for each set of skills. Handing over takes no time. The tasks of
a worker that dies go back to the front of their queues once its silence is noticed, as with Fluffle. So do tasks that
failed, at once. A worker that is closed keeps its tasks and waits.
"""

from collections import Counter, deque
from heapq import heappop, heappush

from benchmarks.simulation.outcome import Ran
from benchmarks.simulation.scenarios import FAILS_AFTER, NEVER, Case, Job, Worker

MULTIPLIER = 4


class _Consumer:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.waiting: deque[Job] = deque()
        self.running: dict[str, Job] = {}
        self.is_there = True

    @property
    def has_room(self) -> bool:
        return self.is_there and len(self.waiting) + len(self.running) < MULTIPLIER * self.worker.slots

    def may_begin(self, now: float) -> bool:
        """Whether it works on tasks that wait there."""
        return self.is_there and not self.worker.is_closed(now)


def simulate(case: Case, noticed_after: float) -> dict[str, Ran]:
    """When each task ran. A death is noticed after so many seconds."""
    consumers = [_Consumer(worker) for worker in case.workers]
    queues: dict[tuple[str, ...], deque[Job]] = {job.skills: deque() for job in case.jobs}
    turn = {skills: deque(c for c in consumers if set(skills) <= set(c.worker.skills)) for skills in queues}
    agenda: list[tuple[float, int, _Consumer | None, Job | None]] = []
    for number, arrival in enumerate(case.jobs):
        heappush(agenda, (arrival.at, number, None, arrival))
    for number, consumer in enumerate(consumers):
        if consumer.worker.dies_at < NEVER:
            heappush(agenda, (consumer.worker.dies_at + noticed_after, -1 - number, consumer, None))
        if consumer.worker.opens_at < NEVER:
            heappush(agenda, (consumer.worker.opens_at, -1 - number, consumer, None))
    ran: dict[str, Ran] = {}
    attempts: Counter[str] = Counter()
    events = len(agenda)
    while agenda:
        now, _, at, job = heappop(agenda)
        if at is None and job is not None:
            queues[job.skills].append(job)
        elif at is not None and job is not None:
            ran[job.id] = Ran(ran[job.id].start, now)
            del at.running[job.id]
            if at.worker.failing(job.id, attempts[job.id]):
                queues[job.skills].appendleft(job)
        elif at is not None and at.worker.dies_at <= now:
            at.is_there = False
            for lost in reversed([*at.running.values(), *at.waiting]):
                queues[lost.skills].appendleft(lost)
        for skills, queue in queues.items():
            _push(queue, turn[skills])
        for consumer in consumers:
            while consumer.may_begin(now) and consumer.waiting and len(consumer.running) < consumer.worker.slots:
                started = consumer.waiting.popleft()
                consumer.running[started.id] = started
                ran[started.id] = Ran(now, NEVER)
                attempts[started.id] += 1
                fails = consumer.worker.failing(started.id, attempts[started.id])
                end = now + FAILS_AFTER if fails else consumer.worker.finish(now, started.work)
                if end < NEVER:
                    events += 1
                    heappush(agenda, (end, events, consumer, started))
    return ran


def _push(queue: deque[Job], turn: deque[_Consumer]) -> None:
    while queue:
        for _ in range(len(turn)):
            consumer = turn[0]
            turn.rotate(-1)
            if consumer.has_room:
                consumer.waiting.append(queue.popleft())
                break
        else:
            return
