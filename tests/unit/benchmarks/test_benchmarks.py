"""The arithmetic of the benchmarks, and the end of their processes."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.support.figures import COLUMNS, Comparison, Measured
from benchmarks.support.processes import BenchmarkFailed, Processes
from benchmarks.support.report import Bar, write_json
from benchmarks.systems import measure
from benchmarks.systems.catalogue import System, fluffle, peers
from benchmarks.systems.tally import VARIABLE, Tally
from benchmarks.throughput import in_turn

PROGRAMS = Path("/programs")


def measured(name: str, seconds: list[float], latencies: list[float]) -> Measured:
    """Return the measurements of a system that took this long for 1,000 tasks in each round."""
    [system] = [system for system in (fluffle(PROGRAMS), *peers(PROGRAMS)) if system.name == name]
    found = Measured(system)
    for taken in seconds:
        found.add(1000, {"version": "1.2.3", "seconds": taken, "latencies": latencies})
    return found


def test_a_rate_is_the_median_of_the_rounds() -> None:
    assert measured("taskiq", [1.0, 10.0, 0.5], []).rate == 1000


def test_a_system_without_results_has_no_round_trip() -> None:
    assert measured("dramatiq", [1.0], [0.001, 0.002]).latency(50) is None


def test_latencies_are_percentiles_of_all_rounds() -> None:
    assert measured("celery-solo", [1.0, 1.0], [0.001, 0.002, 0.003]).latency(50) == pytest.approx(0.002)


def test_fluffle_is_compared_with_the_best_celery_pool_for_each_metric() -> None:
    ours = measured("fluffle", [0.2], [0.003, 0.003])
    slow_but_prompt = measured("celery-solo", [4.0], [0.002, 0.002])
    fast_but_late = measured("celery-prefork", [2.0], [0.009, 0.009])
    fastest = measured("taskiq", [0.1], [])
    rate, latency = Comparison(ours, [slow_but_prompt, fast_but_late, fastest]).bars()
    assert rate.value == pytest.approx(10)
    assert rate.reached
    assert latency.value == pytest.approx(1.5)
    assert not latency.reached


def test_without_celery_there_is_no_target() -> None:
    assert Comparison(measured("fluffle", [1.0], [0.1, 0.1]), [measured("taskiq", [1.0], [])]).bars() == []


def test_every_row_fits_the_columns() -> None:
    comparison = Comparison(measured("fluffle", [1.0], [0.1, 0.1]), [measured("taskiq", [1.0], [])])
    assert {len(row) for row in comparison.rows()} == {len(COLUMNS)}


def test_every_second_round_runs_in_reverse_order() -> None:
    systems = [System(name, (), (), "quorum", results=True) for name in "abc"]
    assert "".join(system.name for system in in_turn(systems, 3)) == "abccbaabc"


def test_a_target_is_reached_from_the_right_side() -> None:
    assert Bar("memory", 60, "MB", at_most=60).reached
    assert not Bar("memory", 60.1, "MB", at_most=60).reached
    assert not Bar("rate", 4.9, "", at_least=5).reached


def test_the_file_contains_the_figures_and_the_targets(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", "footprint", {"runs": 20}, [Bar("memory", 61, "MB", at_most=60)])
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["program"] == "footprint"
    assert written["runs"] == 20
    assert written["bars"] == [{"name": "memory", "value": 61, "unit": "MB", "reached": False}]


def test_a_client_warms_up_before_it_measures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.counts: list[int] = []

        def run(self, count: int) -> None:
            self.counts.append(count)

    client = Recorder()
    monkeypatch.setattr(sys, "argv", ["client", "--tasks", "30", "--warm-up", "20", "--latency-samples", "2"])
    measure.main(client, "pytest")
    assert client.counts == [1, 20, 1, 1, 30]
    printed = json.loads(capsys.readouterr().out)
    assert printed["seconds"] >= 0
    assert len(printed["latencies"]) == 2


def test_a_tally_counts_across_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "tally"))
    here = Tally()
    program = "from benchmarks.systems.tally import Tally; t = Tally(); [t.add() for _ in range(5)]"
    with Processes(tmp_path, {}) as processes:
        processes.output_of([sys.executable, "-c", program], timeout=30)
    here.add()
    here.wait_for(6)
    assert here.count() == 6


def test_processes_are_stopped_with_their_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print('started', flush=True); time.sleep(60)"
    )
    with Processes(tmp_path, {}) as processes:
        process = psutil.Process(processes.start_until([sys.executable, "-c", program], "started", timeout=30).pid)
        family = [process, *process.children()]
        assert len(family) == 2
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_a_failed_program_is_reported_with_its_last_output(tmp_path: Path) -> None:
    with Processes(tmp_path, {}) as processes, pytest.raises(BenchmarkFailed, match="out of carrots"):
        processes.output_of([sys.executable, "-c", "import sys; sys.exit('out of carrots')"], timeout=30)
