"""What no schedule can beat, however much it knows."""

from collections.abc import Sequence
from itertools import accumulate

from benchmarks.simulation.scenarios import NEVER, SLOWER, Case, Job, Worker


def makespan_bound(case: Case) -> float:
    """The last task ends no earlier than this, in seconds after the first has come.

    The greatest of: for each moment, all that comes from then on, done at the full speed of all slots; the same for
    each set of skills and the LLMs that have them; and, as a run cannot be split, the k longest tasks on the k
    fastest slots for every k.
    """
    bounds = [_longest(case.jobs, case.workers)]
    for skills in {job.skills for job in case.jobs} | {()}:
        jobs = [job for job in case.jobs if set(skills) <= set(job.skills)]
        able = [worker for worker in case.workers if set(skills) <= set(worker.skills)]
        bounds.append(_fluid(jobs, able))
    return max(bounds)


def _longest(jobs: Sequence[Job], workers: Sequence[Worker]) -> float:
    speeds = sorted((worker.speed for worker in workers for _ in range(worker.slots)), reverse=True)
    works = sorted((job.work for job in jobs), reverse=True)
    return max(work / speed for work, speed in zip(accumulate(works), accumulate(speeds), strict=False))


def _fluid(jobs: Sequence[Job], workers: Sequence[Worker]) -> float:
    left, latest = 0.0, 0.0
    for job in reversed(jobs):
        left += job.work
        latest = max(latest, _end(job.at, left, workers))
    return latest


def _end(start: float, work: float, workers: Sequence[Worker]) -> float:
    """When all of them together have done so much work, beginning at `start`."""
    changes = sorted({at for worker in workers for at in (worker.slows_at, worker.dies_at) if start < at < NEVER})
    now = start
    for change in [*changes, NEVER]:
        speed = sum(worker.slots * _speed(worker, now) for worker in workers)
        if now + work / speed <= change:
            return now + work / speed
        work -= (change - now) * speed
        now = change
    raise AssertionError("the last change is never")


def _speed(worker: Worker, at: float) -> float:
    if at >= worker.dies_at:
        return 0.0
    return worker.speed / SLOWER if at >= worker.slows_at else worker.speed
