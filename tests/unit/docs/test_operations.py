"""Dashboards, alarms and the pages about operations and security name existing metrics and tests."""

import ast
import json
import re
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT
from tests.unit.docs.test_docs import code, table_after

MONITORING = ROOT / "examples/monitoring"
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
THREATS = table_after("threats", (ROOT / "docs/security.md").read_text(encoding="utf-8"))


def described() -> set[str]:
    """Return the documented metrics; other tests compare them with those of real programs."""
    return {
        metric
        for name in ("coordinator", "worker")
        for row in table_after(f"metrics: {name}", OPERATIONS)
        for metric in code(row[0])
    }


def metrics_in(expression: str) -> set[str]:
    """Return the metrics in an expression; of a histogram without the suffixes of its parts."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bfluffle_\w+", expression)}


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    return list(dashboard["panels"])


def alarms() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alarms.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_every_panel_uses_existing_metrics(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        named = metrics_in(target["expr"])
        assert named
        assert named <= described()


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in panels()}) == len(places)


@pytest.mark.parametrize("alarm", alarms(), ids=lambda alarm: str(alarm["alert"]))
def test_every_alarm_uses_existing_metrics(alarm: dict[str, Any]) -> None:
    assert metrics_in(alarm["expr"]) <= described()
    assert metrics_in(alarm["expr"]) or alarm["expr"].startswith("up{")


def test_every_alarm_is_described_with_its_remedy() -> None:
    rows = table_after("alarms", OPERATIONS)
    assert [code(row[0])[0] for row in rows] == [alarm["alert"] for alarm in alarms()]
    assert all(len(row) == 3 and row[2] for row in rows)


def test_the_prometheus_configuration_loads_the_alarms() -> None:
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    assert [(MONITORING / file).exists() for file in configuration["rule_files"]] == [True]
    assert configuration["scrape_configs"][0]["job_name"] == "fluffle"


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row[0][:60])
def test_every_threat_names_an_existing_test(row: list[str]) -> None:
    threat, mechanism, named = row
    assert threat
    assert mechanism
    assert code(named)
    for test in code(named):
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {it.name for it in tree.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)}
