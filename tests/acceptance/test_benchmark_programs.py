"""Each benchmark runs on a small scale and writes its measurements to its file. Its targets are not checked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on

SMALL = {
    "backlog": ("--backlog", 30000, "--tasks", 1000, "--rounds", 1),
    "chat": ("--conversations", 1, "--turns", 2, "--warm-up", 0),
    "floor": ("--samples", 20),
    "footprint": ("--runs", 1, "--starts", 1, "--idle", 0.5),
    "reports": ("--finished", 2000, "--tasks", 100, "--rounds", 1),
    "throughput": ("--tasks", 100, "--rounds", 1, "--warm-up", 10, "--latency-samples", 5, "--peers", ""),
}
"""By name: sizes. `decisions`, `makespan` and `storage` need no RabbitMQ; `reality` and `page` take their time."""

LEFT = {
    "floor.inbox",
    "floor.work",
    *(f"llm.{name}{kind}" for name in ("bench", "idle", "reported") for kind in ("", ".work")),
}
"""Queues that benchmarks leave behind."""


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_writes_its_measurements_to_a_file(rabbitmq: NodeInfo, tmp_path: Path, name: str) -> None:
    file = tmp_path / "figures.json"
    with site_on(rabbitmq, tmp_path) as site:  # which removes the queues
        site.queues |= LEFT
        sizes = [str(size) for size in SMALL[name]]
        command = [sys.executable, f"benchmarks/{name}.py", *sizes, "--amqp-url", site.url, "--json", str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert file.exists(), done.stdout + done.stderr
    told = json.loads(file.read_text())
    assert told["program"] == name
    assert told["machine"]["processors"] >= 1
