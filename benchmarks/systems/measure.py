"""The main function of every client process: warm up, time single tasks, time many, print one line of JSON.

Needs the standard library only, because the peers' clients import it too, in an environment without Fluffle.
"""

import argparse
import json
import time
from importlib.metadata import version
from typing import Protocol


class Client(Protocol):
    """Gives no-op tasks to one system."""

    def run(self, count: int) -> None:
        """Submit `count` tasks and return when all are done: when every result is here, if the system has results."""


def main(client: Client, package: str) -> None:
    """Take the sizes from the command line, measure, print `{"version", "seconds", "latencies": [seconds, …]}`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--latency-samples", type=int, required=True)
    sizes = parser.parse_args()
    client.run(1)  # returns when the workers are up
    client.run(sizes.warm_up)
    latencies = [_seconds(client, 1) for _ in range(sizes.latency_samples)]
    seconds = _seconds(client, sizes.tasks)
    print(json.dumps({"version": version(package), "seconds": seconds, "latencies": latencies}))


def _seconds(client: Client, count: int) -> float:
    start = time.perf_counter()
    client.run(count)
    return time.perf_counter() - start
