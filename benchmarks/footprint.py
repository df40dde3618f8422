"""The footprint of Fluffle: memory of an idle worker, time of `fluffle --help`, time until a coordinator is ready.

.venv/bin/python benchmarks/footprint.py --runs 20
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.processes import PROGRAMS, Processes, run_program
from benchmarks.support.report import Bar, console, print_bars, write_json

FLUFFLE = str(PROGRAMS / "fluffle")
COORDINATOR = (FLUFFLE, "coordinator")
READY = "coordinator: ready, leading"
PATIENCE = 30.0  # seconds


def help_time(folder: Path) -> float:
    """Return how many seconds `fluffle --help` takes."""
    with Processes(folder, {}) as processes:
        start = time.perf_counter()
        processes.output_of((FLUFFLE, "--help"), timeout=PATIENCE)
        return time.perf_counter() - start


def ready_time(url: str, state: Path) -> float:
    """Return the seconds from the start of a coordinator until it prints that it is ready, and stop it."""
    with Processes(state, environment(url, state)) as processes:
        start = time.perf_counter()
        processes.start_until(COORDINATOR, READY, timeout=PATIENCE)
        return time.perf_counter() - start


def idle_memory(url: str, state: Path, idle: float) -> int:
    """Return the resident bytes of a worker with the demo model after `idle` seconds without work."""
    with Processes(state, environment(url, state)) as processes:
        processes.start_until(COORDINATOR, READY, timeout=PATIENCE)
        worker = processes.start_until((FLUFFLE, "worker", "idle", "--model", "demo"), "idle: ready", timeout=PATIENCE)
        time.sleep(idle)
        memory: int = psutil.Process(worker.pid).memory_info().rss
        return memory


def environment(url: str, state: Path) -> dict[str, str]:
    """Return the environment variables of Fluffle's processes."""
    return {"FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(state)}


def measure(url: str, folder: Path, sizes: argparse.Namespace) -> list[Bar]:
    """Measure all figures. Raises BenchmarkFailed."""

    def state(name: str) -> Path:
        path = folder / name
        path.mkdir(exist_ok=True)
        return path

    console.print("[dim]fluffle --help[/dim]")
    helps = [help_time(folder) for _ in range(sizes.runs)]
    console.print("[dim]coordinator[/dim]")
    fresh = [ready_time(url, state(f"fresh-{number}")) for number in range(sizes.starts)]
    existing = [ready_time(url, state("fresh-0")) for _ in range(sizes.starts)]
    console.print("[dim]idle worker[/dim]")
    memory = idle_memory(url, state("fresh-0"), sizes.idle)
    return [
        Bar("idle demo worker, resident", memory / 1e6, "MB", at_most=60),
        Bar(f"fluffle --help, median of {sizes.runs}", median(helps) * 1000, "ms", at_most=150),
        Bar(f"coordinator ready, new database, median of {sizes.starts}", median(fresh), "s", at_most=1.5),
        Bar(f"coordinator ready, existing database, median of {sizes.starts}", median(existing), "s", at_most=1.5),
    ]


def arguments() -> argparse.Namespace:
    """Return the sizes given on the command line."""
    parser = command(__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of `fluffle --help` (20)")
    parser.add_argument("--starts", type=int, default=5, help="starts of the coordinator on each database (5)")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds that the worker is idle (5)")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write the file."""
    sizes = arguments()
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on:
        bars = measure(on.url, Path(folder), sizes)
    print_bars(f"Footprint, on {on.name}", bars)
    if sizes.json:
        write_json(sizes.json, "footprint", {"broker": on.name, "runs": sizes.runs, "starts": sizes.starts}, bars)


if __name__ == "__main__":
    run_program(main)
