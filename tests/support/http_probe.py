"""The metrics and health pages of a program, read over HTTP."""

import json
import re
import urllib.request
from typing import Any
from urllib.error import HTTPError

from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import Process, until

METRICS_ON = {"FLUFFLE_METRICS_PORT": "0"}
"""Settings of a program that is to be looked at."""


def address(process: Process) -> str:
    """Return the address from the log of a program where it serves its metrics: `http://host:port`."""
    process.wait_for("/metrics")
    found = re.search(r"metrics at (http://\S+)/metrics", process.output)
    assert found, process.output
    return found[1]


class Scrape(dict[str, float]):
    """The metrics at one time: values by name, with labels as `name{label=value,…}` in alphabetical order."""

    def of(self, name: str) -> dict[str, float]:
        """Return the values of one name by their labels."""
        begin = f"{name}{{"
        return {key[len(begin) : -1]: value for key, value in self.items() if key.startswith(begin)}

    @property
    def names(self) -> set[str]:
        """Return all names without labels."""
        return {key.partition("{")[0] for key in self}


def scrape(process: Process) -> Scrape:
    """Return the current metrics of a program."""
    with urllib.request.urlopen(f"{address(process)}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    told = Scrape()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()))
            told[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return told


def health(process: Process, page: str) -> tuple[int, Any]:
    """Return the status and the JSON of `/healthz` or `/readyz`."""
    try:
        with urllib.request.urlopen(address(process) + page, timeout=20) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def wait_for_readiness(process: Process, status: int) -> None:
    """Wait until `/readyz` answers with that status."""
    until(lambda: health(process, "/readyz")[0] == status, f"/readyz answers {status}")
