"""What came of a simulation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import NamedTuple

from benchmarks.simulation.bound import makespan_bound
from benchmarks.simulation.scenarios import Case


class Ran(NamedTuple):
    """When the run of a task that gave its result started and ended, in seconds, and where."""

    start: float
    end: float
    llm: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The columns: makespan divided by its bound, seconds from arrival to start, tasks that ended when overdue."""

    ratio: float
    mean_wait: float
    p95_wait: float
    late: float

    @classmethod
    def mean(cls, outcomes: Iterable["Outcome"]) -> "Outcome":
        """Each column averaged."""
        columns = zip(*((o.ratio, o.mean_wait, o.p95_wait, o.late) for o in outcomes), strict=True)
        return cls(*map(fmean, columns))


def outcome(case: Case, runs: Mapping[str, Ran]) -> Outcome:
    """The columns of one simulation, in which every task has run."""
    waits = [runs[job.id].start - job.at for job in case.jobs]
    return Outcome(
        ratio=max(run.end for run in runs.values()) / makespan_bound(case),
        mean_wait=fmean(waits),
        p95_wait=quantiles(waits, n=20, method="inclusive")[-1],
        late=sum(job.due is not None and runs[job.id].end > job.due for job in case.jobs),
    )
