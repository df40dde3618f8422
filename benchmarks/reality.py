"""A check of the simulation in benchmarks/makespan.py: the same cases with real processes.

    .venv/bin/python benchmarks/reality.py --tasks 300 --scenario heterogeneous --policies earliest-finish

A private RabbitMQ, a coordinator with SQLite, and a worker process for each LLM, which sleeps as long as the simulated
one would work. Every run takes as long as it tells: about a minute and a half for 300 tasks.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.makespan import simulate
from benchmarks.simulation.bound import makespan_bound
from benchmarks.simulation.outcome import Outcome, Ran, outcome
from benchmarks.simulation.scenarios import Case, Worker, case
from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.processes import PROGRAMS, BenchmarkFailed, Processes, run_program
from benchmarks.support.report import Bar, console, print_bars, print_table, write_json
from broker.protocol.task_requests import Submission
from broker.protocol.views import TaskView
from coordinator.core.scheduling.policies import DEFAULT, NAMES
from fluffle import Client, TaskHandle

SCENARIOS = ("homogeneous", "heterogeneous", "arriving")
WITHIN = 0.1  # of what the simulation says
FLUFFLE = str(PROGRAMS / "fluffle")
READY_WITHIN = 30.0  # seconds


def really(played: Case, policy: str, folder: Path, url: str) -> Outcome:
    """Run one case with real processes. Raises BenchmarkFailed."""
    common = {"FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(folder), "FLUFFLE_POLICY": policy}
    with Processes(folder, {**common, "FLUFFLE_LOG_LEVEL": "WARNING"}) as processes:
        processes.start_until([FLUFFLE, "coordinator"], "leading", READY_WITHIN)
        for worker in played.workers:
            processes.start(_worker(worker))
        views = asyncio.run(_play(played, url))
    start = min(view.submitted_at for view in views).timestamp()
    return outcome(played, dict(_runs(views, start)))


def _worker(worker: Worker) -> list[str]:
    """Return the command of a worker with this speed; `env` passes the speed to the handler."""
    command = [FLUFFLE, "worker", worker.name, "--slots", str(worker.slots)]
    skills = ["--skills", ",".join(worker.skills)] if worker.skills else []
    handler = ["--handler", "benchmarks.systems.sleeper:work"]
    return ["env", f"FLUFFLE_BENCH_SPEED={worker.speed}", *command, *skills, *handler]


def _runs(views: list[TaskView], start: float) -> Iterator[tuple[str, Ran]]:
    for view in views:
        if view.started_at is None or view.finished_at is None:
            raise BenchmarkFailed(f"task {view.id} is {view.status}")
        yield view.id, Ran(view.started_at.timestamp() - start, view.finished_at.timestamp() - start)


async def _play(played: Case, url: str) -> list[TaskView]:
    """Submit every task at its time, and wait until all have ended."""
    async with Client(url, name="reality") as client:
        await asyncio.wait_for(_all_online(client, {worker.name for worker in played.workers}), READY_WITHIN)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        handles: list[TaskHandle] = []
        submissions = {
            job.id: Submission(
                id=job.id,
                description="work",
                inputs="x" * job.characters,
                skills=list(job.skills),
                metadata={"work": job.work},
            )
            for job in played.jobs
        }
        for job in played.jobs:
            if (early := begun + job.at - loop.time()) > 0:
                await asyncio.sleep(early)
            handles.append(await client.submit(submissions[job.id]))
        return [await handle.end() for handle in handles]


async def _all_online(client: Client, names: set[str]) -> None:
    while {llm.name for llm in await client.llms() if llm.state == "online"} != names:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def main() -> None:
    """Parse the options, play, compare, print."""
    parser = command(__doc__)
    parser.add_argument("--tasks", type=int, default=300, help="tasks of a run (300)")
    parser.add_argument("--seed", type=int, default=0, help="which tasks of the trace (0)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated")
    parser.add_argument("--policies", nargs="+", choices=NAMES, default=[DEFAULT], metavar="POLICY")
    options = parser.parse_args()
    rows, reached, runs = [], [], []
    with tempfile.TemporaryDirectory() as folder, broker(options.amqp_url, Path(folder)) as on:
        for scenario in options.scenario or ("heterogeneous", "arriving"):
            for policy in options.policies:
                played = case(scenario, options.tasks, options.seed)
                console.print(f"[dim]{scenario}, {policy}: at least {makespan_bound(played):.0f} s[/dim]")
                own = Path(folder) / f"{scenario}-{policy}"
                own.mkdir()
                real = really(played, policy, own, on.url)
                simulated = simulate(scenario, options.tasks, options.seed, policy)
                runs.append(
                    {"scenario": scenario, "policy": policy, "real": asdict(real), "simulated": asdict(simulated)}
                )
                rows += [_row(scenario, policy, "real", real), _row(scenario, policy, "simulated", simulated)]
                for name in ("ratio", "mean_wait"):
                    share = getattr(real, name) / getattr(simulated, name)
                    title = f"{scenario}, {policy}: {name.replace('_', ' ').replace('ratio', 'makespan')}, off by"
                    reached.append(Bar(title, abs(share - 1), "", at_most=WITHIN))
    columns = ("", "policy", "", "makespan ÷ bound", "mean wait s", "p95 wait s")
    print_table(f"{options.tasks} tasks on 8 LLMs, {on.name}", columns, rows)
    print_bars("Bars", reached)
    if options.json:
        write_json(options.json, "reality", {"runs": runs}, reached)
    if not all(bar.reached for bar in reached):
        sys.exit(1)


def _row(scenario: str, policy: str, what: str, played: Outcome) -> tuple[str, ...]:
    return (scenario, policy, what, f"{played.ratio:.3f}", f"{played.mean_wait:.1f}", f"{played.p95_wait:.1f}")


if __name__ == "__main__":
    run_program(main)
