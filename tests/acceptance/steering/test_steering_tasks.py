"""People change tasks by hand: real commands on real processes."""

import json
import os
import re
from pathlib import Path

from broker.ids import uuid7
from fluffle.client.events import Event
from tests.support.processes import fluffle, until
from tests.support.shell import Shell
from tests.support.steered_site import SteeredSite

LONG_AGO = "2020-01-01T00:00Z"


# -- task assign, unassign -----------------------------------------------------------------------------------------


def test_pending_and_blocked_tasks_are_done_by_the_llm_they_are_assigned_to(place: SteeredSite, shell: Shell) -> None:
    first = f"first-{uuid7()}"
    pending, blocked = place.submit(skills=["unheard-of"]), place.submit(skills=["steer"], depends_on=[first])
    told = shell("task", "assign", pending, blocked, "bea").splitlines()
    assert re.fullmatch(rf"{pending}\t(assigned\tat bea|pending\twaiting for bea)", told[0])
    assert told[1] == f"{blocked}\tblocked\twaiting for 1 task"
    place.submit(id=first, skills=["steer"])
    for task_id in (pending, blocked):
        assert place.completed(task_id).llm == "bea"
    assert any("assigned to bea" in change.what for change in place.client.task(blocked).history)


def test_an_unclaimed_task_is_reassigned_at_once(place: SteeredSite, shell: Shell) -> None:
    with place.worker("sly", "--skills", "sly") as sly:
        sly.suspend()
        task_id = place.submit(skills=["sly"])
        place.is_(task_id, "assigned")
        shell("task", "assign", task_id, "ana")
        assert place.completed(task_id).llm == "ana"
        sly.resume()
        after = place.submit(skills=["sly"])
        assert place.completed(after).llm == "sly"
    view = place.client.task(task_id)
    assert [(attempt.llm, attempt.outcome) for attempt in view.attempts] == [("sly", "moved"), ("ana", "completed")]
    assert view.status == "completed"


def test_a_running_task_is_reassigned_only_on_request_and_its_call_stops(
    place: SteeredSite, shell: Shell, gate: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    task_id = place.submit(assignee="ana", inputs={"until": str(gate), "stopped": str(stopped)})
    place.is_(task_id, "in_progress")
    refused = shell.error("task", "assign", task_id, "bea")
    assert refused.startswith(f"{task_id}: id: the task is running at ana")
    assert not stopped.exists()
    shell("task", "assign", task_id, "bea", "--now")
    until(stopped.exists, "the function of ana is cancelled")
    until(lambda: place.client.task(task_id).llm == "bea", "bea has it")
    gate.touch()
    view = place.completed(task_id)
    assert [(a.attempt, a.llm, a.outcome) for a in view.attempts] == [(1, "ana", "moved"), (2, "bea", "completed")]
    assert re.search(r"attempt 1 moved.*\n.*attempt 2 assigned to bea", shell("task", "show", task_id))


def test_reassigning_a_task_ends_its_command(place: SteeredSite, shell: Shell, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; cat > /dev/null; while :; do sleep 0.05; done"
    with place.worker("exa", "--exec", f"sh -c '{script}'"):
        task_id = place.submit(assignee="exa")
        until(pid.exists, "the command runs")
        assert _runs(int(pid.read_text()))
        shell("task", "assign", task_id, "ana", "--now")
        until(lambda: not _runs(int(pid.read_text())), "the command is gone")
        assert place.completed(task_id).llm == "ana"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_unknown_llm_is_rejected_unless_forced(place: SteeredSite, shell: Shell) -> None:
    task_id, ghost = place.submit(skills=["unheard-of"]), f"ghost-{uuid7()}"
    said = shell.error("task", "assign", task_id, ghost)
    assert said.startswith(f"{task_id}: assignee: no LLM named {ghost} has ever connected")
    assert shell.error("task", "submit", "x", "--assignee", ghost).startswith(f"assignee: no LLM named {ghost}")
    assert shell("task", "assign", task_id, ghost, "--force") == f"{task_id}\tpending\twaiting for {ghost}\n"
    submitted = shell("task", "submit", "x", "--assignee", ghost, "--force").strip()
    with place.worker(ghost):
        assert [place.completed(id_).llm for id_ in (task_id, submitted)] == [ghost, ghost]


def test_a_task_for_an_offline_llm_waits_and_is_done_when_it_connects(place: SteeredSite, shell: Shell) -> None:
    with place.worker("oda"):
        place.llm_is("oda", "online")
    place.llm_is("oda", "offline")
    task_id = shell("task", "submit", "x", "--assignee", "oda").strip()
    assert place.listed(task_id)["remark"] == "waiting for oda, which is offline"
    assert re.search(r"^Waits: +for oda, which is offline$", shell("task", "show", task_id), re.MULTILINE)
    with place.worker("oda"):
        assert place.completed(task_id).llm == "oda"


def test_an_unassigned_task_is_assigned_automatically(place: SteeredSite, shell: Shell) -> None:
    with place.worker("una"):
        place.llm_is("una", "online")
    task_id = place.submit(assignee="una", skills=["steer"])
    place.llm_is("una", "offline")
    shell("task", "unassign", task_id)
    assert place.completed(task_id).llm in ("ana", "bea")


def test_a_command_for_several_tasks_changes_what_it_can_and_names_the_others(place: SteeredSite, shell: Shell) -> None:
    first, last = place.submit(skills=["unheard-of"]), place.submit(skills=["unheard-of"])
    done = shell.run("task", "assign", first, "nope", last, "bea")
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: nope: id: there is no such task\n"
    assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == [first, last]
    assert [place.completed(task_id).llm for task_id in (first, last)] == ["bea", "bea"]


# -- task update ---------------------------------------------------------------------------------------------------


def test_a_task_with_a_higher_priority_overtakes_waiting_tasks(place: SteeredSite, shell: Shell, gate: Path) -> None:
    running = place.submit(assignee="ana", inputs={"until": str(gate)})
    place.is_(running, "in_progress")
    early, late = (place.submit(assignee="ana") for _ in range(2))
    assert shell("task", "update", late, "--priority", "9") == f"{late}\tpending\twaiting for ana\n"
    assert place.listed(late)["priority"] == "9"
    gate.touch()
    first, second = place.completed(late).started_at, place.completed(early).started_at
    assert first is not None
    assert second is not None
    assert first < second


def test_update_changes_only_the_given_fields(place: SteeredSite, shell: Shell) -> None:
    task_id = place.submit(skills=["unheard-of"], priority=2, labels=["old"], metadata={"a": 1})
    options = ("--due", "2030-01-01T00:00Z", "--label", "new,newer", "--metadata", "b=2")
    changed = json.loads(shell("task", "update", task_id, *options, "--json"))
    assert (changed["priority"], changed["labels"], changed["metadata"]) == (2, ["new", "newer"], {"b": "2"})
    assert changed["due"].startswith("2030-01-01T00:00:00")
    assert [view.id for view in place.client.tasks(label=["newer"])] == [task_id]
    shell("task", "update", task_id, "--due", "none", "--no-labels")
    view = place.client.task(task_id)
    assert (view.due, view.labels, view.metadata) == (None, [], {"b": "2"})
    assert "changed: due = none" in shell("task", "show", task_id)
    shell("task", "cancel", task_id)
    assert "the task is already cancelled" in shell.error("task", "update", task_id, "--priority", "1")


def test_an_overdue_task_is_flagged_and_announced_once(place: SteeredSite, shell: Shell, gate: Path) -> None:
    task_id = place.submit(assignee="ana", inputs={"until": str(gate)})
    site = place.site
    with (
        place.client.watch(task_id) as events,
        fluffle("task", "watch", task_id, url=site.url, state=site.state, until="in_progress") as watching,
    ):
        shell("task", "update", task_id, "--due", LONG_AGO)
        watching.wait_for("overdue")
        assert place.client.task(task_id).overdue
        assert place.listed(task_id)["remark"] == "overdue"
        gate.touch()
        assert watching.wait() == 0
        told = [event for event in events if isinstance(event, Event)]
    assert watching.output.count("overdue") == 1
    assert [event.data.overdue for event in told if event.is_overdue] == [True]
    assert place.completed(task_id).overdue


def test_a_task_submitted_after_its_due_time_is_overdue_at_once(place: SteeredSite, shell: Shell, gate: Path) -> None:
    label = f"late-{uuid7()}"
    inputs = json.dumps({"until": str(gate)})
    with place.client.watch(label=label) as events:
        shell("task", "submit", "x", "-a", "ana", "--input", inputs, "--due", LONG_AGO, "--label", label)
        for event in events:
            if isinstance(event, Event) and event.is_overdue:
                gate.touch()
                break
        assert not [event for event in events if isinstance(event, Event) and event.is_overdue]


# -- task cancel, retry, wait --------------------------------------------------------------------------------------


def test_cancel_reports_the_attempts_that_it_stopped(
    place: SteeredSite, shell: Shell, gate: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    running = place.submit(assignee="ana", inputs={"until": str(gate), "stopped": str(stopped)})
    pending, blocked = place.submit(skills=["unheard-of"]), place.submit(depends_on=["never"])
    with place.worker("cea") as cea:
        cea.suspend()
        assigned = place.submit(assignee="cea")
        place.is_(running, "in_progress")
        place.is_(assigned, "assigned")
        told = shell("task", "cancel", running, pending, blocked, assigned).splitlines()
    assert told == [
        f"{running}\tcancelled\tstopped at ana in attempt 1",
        f"{pending}\tcancelled\twas waiting",
        f"{blocked}\tcancelled\twas waiting",
        f"{assigned}\tcancelled\ttaken back from cea; cea had not yet started attempt 1",
    ]
    until(stopped.exists, "the function of ana is cancelled")
    assert "cancelled while in progress at ana" in shell("task", "show", running)


def test_retry_can_change_the_fields_of_a_task(place: SteeredSite, shell: Shell) -> None:
    task_id = place.submit(assignee="ana", inputs={"fail": "no ink"}, timeout=60)
    assert [view.status for view in place.client.wait(task_id, timeout=30)] == ["failed"]
    options = {
        "--description": "-",
        "--input": "{}",
        "--assignee": "bea",
        "--priority": "7",
        "--timeout": "none",
        "--max-attempts": "1",
        "--label": "again",
    }
    shell("task", "retry", task_id, *(part for pair in options.items() for part in pair), given="something else\n")
    view = place.completed(task_id)
    assert (view.description, view.result, view.llm) == ("something else", "something else", "bea")
    assert (view.priority, view.timeout, view.max_attempts, view.labels) == (7, None, 1, ["again"])
    assert [attempt.outcome for attempt in view.attempts] == ["failed", "completed"]
    assert "retried after it failed, with changed assignee, description" in shell("task", "show", task_id)


def test_wait_accepts_all_tasks_with_a_label(place: SteeredSite, shell: Shell) -> None:
    label = f"batch-{uuid7()}"
    ids = {place.submit(skills=["steer"], labels=[label]) for _ in range(3)}
    ends = shell("task", "wait", "--label", label).splitlines()
    assert {line.split("\t")[0] for line in ends} == ids


# -- task submit --dry-run -----------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_llm_and_the_reason(place: SteeredSite, shell: Shell, gate: Path) -> None:
    label = f"dry-{uuid7()}"

    def dry(*options: str) -> str:
        return shell("task", "submit", "x", "--label", label, "--dry-run", *options).strip()

    with place.worker("dia", "--skills", "dia"):
        assert dry("-k", "dia") == "dia\tthe only LLM with dia online"
        placed = json.loads(shell("task", "submit", "x", "-k", "dia", "--dry-run", "--json"))
        assert placed == {"status": "assigned", "llm": "dia", "why": "the only LLM with dia online"}
        busy = place.submit(skills=["dia"], inputs={"until": str(gate)})
        place.is_(busy, "in_progress")
        assert dry("-k", "dia") == "pending\twaits for a free slot of dia"
        gate.touch()
        place.completed(busy)
    place.llm_is("dia", "offline")
    assert dry("-k", "dia") == "pending\twaits for dia, which is offline"
    assert dry("-k", "unheard-of") == "pending\tno LLM that was ever seen has the skill unheard-of"
    assert dry("-k", "dya") == "pending\tno LLM that was ever seen has the skill dya; did you mean dia?"
    unlabelled = shell("task", "submit", "x", "--label", "local-only", "--dry-run").strip()
    assert unlabelled == "pending\tno LLM that was ever seen has the label local"
    assert dry("--label", "local-only", "--assignee", "dia").startswith("pending\twaits for dia, which is not labelled")
    assert dry("--assignee", "nobody-yet", "--force") == "pending\twaits for nobody-yet, which has never connected"
    assert dry("--not-before", "2099-01-01T00:00Z").startswith("blocked\twaits until 2099-01-01T00:00:00")
    assert dry("-k", "steer", "--depends-on", "never").startswith("blocked\twaits for 1 of the tasks")
    assert "no LLM named nobody" in shell.error("task", "submit", "x", "--dry-run", "--assignee", "nobody")
    assert "--dry-run works with one task or a plan, and without --wait" in shell.error(
        "task", "submit", "x", "--dry-run", "--wait", code=2
    )
    assert list(place.client.tasks(label=[label])) == []
