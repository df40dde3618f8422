"""`fluffle llm` and `fluffle report`."""

import re
from pathlib import Path

from broker.protocol.report_catalog import PREDEFINED
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.waiting_tasks import waiting_task


def test_the_llms_are_listed_and_shown(shell: Shell, gate: Path) -> None:
    task_id = waiting_task(shell, gate)
    until(lambda: shell.json("task", "show", task_id)["status"] == "in_progress", "the task runs")
    [row] = [line.split("\t") for line in shell("llm", "list").splitlines() if line.startswith("obi\t")]
    assert (row[1], row[2].split("/")[1], row[-1]) == ("online", "20", "obey=0.9,summarise")
    shown = shell("llm", "show", "obi")
    assert re.search(r"^Description: obeys$", shown, re.MULTILINE)
    assert f"\n{task_id}\n" in shown.split("Current tasks")[1]
    assert task_id in shell.json("llm", "show", "obi")["tasks"]
    assert shell.error("llm", "show", "nobody") == "name: there is no LLM nobody"
    gate.touch()
    shell("task", "wait", task_id)


def test_workers_with_one_name_and_different_settings_warn_and_are_shown_one_by_one(shell: Shell, place: Site) -> None:
    first = place.worker("twin", "--exec", "cat", "--skills", "copy")
    second = place.worker("twin", "--exec", "tee", "--skills", "copy", "--slots", "2")
    first.wait_for("twin: another worker of this name")
    second.wait_for("twin: another worker of this name")
    assert "has model exec:tee, skills copy; this one" in first.output
    assert "has model exec:cat, skills copy; this one" in second.output
    shown = shell("llm", "show", "twin").split("Instances with different settings")[1]
    rows = [line.split() for line in shown.strip().splitlines()]
    assert [(row[1], row[2]) for row in rows[-2:]] == [("exec:cat", "1"), ("exec:tee", "2")]
    first.terminate()
    until(lambda: len(shell.json("llm", "show", "twin")["instances"]) == 1, "the first one has left")
    assert shell.json("llm", "show", "twin")["by_instance"] == []


def test_a_report_is_readable_and_has_its_figures_as_json(shell: Shell) -> None:
    shell("task", "submit", "x", "-k", "obey", "--wait")
    printed = shell("report", "--since", "1h")
    assert re.search(r"^Completed: +[1-9]", printed, re.MULTILINE)
    assert re.search(r"^Mean run time: +\d", printed, re.MULTILINE)
    assert re.search(r"^obi\t\d+", printed.split("Attempts by LLM\n")[1])
    values = shell.json("report", "summary")["values"]
    assert values["completed_tasks"] >= 1
    assert shell.json("report", "--until", "2020-01-01T00:00Z")["values"]["total_tasks"] == 0
    assert "there is no report 'nope'" in shell.error("report", "nope")


def test_a_custom_report_is_the_same_in_every_format(shell: Shell, tmp_path: Path) -> None:
    shell("task", "submit", "x", "-k", "obey", "-l", "reported", "--wait")
    asked = ("report", "-g", "label,status", "-m", "completed,run_time_mean", "-w", "label=reported")
    view = shell.json(*asked)
    [row] = view["rows"]
    assert (row["label"], row["status"], row["completed"]) == ("reported", "completed", 1)
    assert shell(*asked).split("\t")[:3] == ["reported", "completed", "1"]
    csv = shell(*asked, "--format", "csv")
    assert csv == f"label,status,completed,run_time_mean\nreported,completed,1,{row['run_time_mean']}\n"
    shell(*asked, "--output", str(tmp_path / "report.csv"))
    assert (tmp_path / "report.csv").read_text() == csv
    shell(*asked, "--output", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "reported" in page
    assert re.findall(r"https?://|<script|<link|url\(", page) == []


def test_every_predefined_report_is_printed(shell: Shell) -> None:
    for name in PREDEFINED:
        assert shell.json("report", name, "--since", "1h")["name"] == name
        shell("report", name)


def test_a_report_is_saved_under_a_name_and_deleted(shell: Shell) -> None:
    shell("report", "--group-by", "skill", "--metrics", "completed", "--save", "by-skill")
    assert shell.json("report", "by-skill")["group_by"] == ["skill"]
    assert re.search(r"^by-skill\tskill\t", shell("report", "--list"), re.MULTILINE)
    assert "did you mean by-skill" in shell.error("report", "by-skil")
    shell("report", "--drop", "by-skill")
    assert "by-skill" not in shell("report", "--list")
    assert "must not be the name of a predefined report: summary" in shell.error(
        "report", "--metrics", "tasks", "--save", "summary"
    )


def test_a_mistake_in_a_report_is_an_error_with_a_suggestion(shell: Shell) -> None:
    assert "did you mean llm?" in shell.error("report", "--group-by", "lllm", code=2)
    assert "did you mean timing?" in shell.error("report", "timming")
    assert "did you mean completed?" in shell.error("report", "--where", "status=complete", code=2)
    assert "have no dimension 'outcome'" in shell.error("report", "--group-by", "outcome", "--metrics", "tasks")
