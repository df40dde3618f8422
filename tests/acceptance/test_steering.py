"""What people do by hand to tasks and LLMs: real commands on real processes."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker.ids import uuid7
from broker.protocol.messages import Status
from broker.protocol.views import TaskView
from fluffle.client.events import Event
from fluffle.client.sync import SyncClient
from tests.support.processes import Process, fluffle, until
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on

OBEY = ("--handler", "tests.support.scripted_llm:obey")
LONG_AGO = "2020-01-01T00:00Z"


class Place:
    """A site with a coordinator and the LLMs ana and bea, both with one slot and the skill steer."""

    def __init__(self, site: Site, client: SyncClient) -> None:
        self.site = site
        self.client = client
        self.shell = Shell(site.url, site.state)

    def worker(self, name: str, *options: str) -> AbstractContextManager[Process]:
        """Another LLM, which obeys unless it is told otherwise, for the length of a block."""
        way = () if "--exec" in options else OBEY
        return fluffle("worker", name, *way, *options, url=self.site.url, state=self.site.state, until="ready")

    def submit(self, **fields: Any) -> str:
        """The id of a new task."""
        return self.client.submit("anything", **fields).id

    def is_(self, task_id: str, status: str) -> TaskView:
        """Wait until a task has a status; it is returned."""
        until(lambda: self.client.task(task_id).status == status, f"{task_id} is {status}")
        return self.client.task(task_id)

    def llm_is(self, name: str, state: str) -> None:
        """Wait until an LLM is known and has a state."""
        until(lambda: (name, state) in [(llm.name, llm.state) for llm in self.client.llms()], f"{name} is {state}")

    def completed(self, task_id: str) -> TaskView:
        """Wait until a task is completed; it is returned."""
        [view] = self.client.wait(task_id, timeout=30)
        assert view.status == "completed", view
        return view

    def listed(self, task_id: str) -> dict[str, str]:
        """What `task list` tells of a task."""
        columns = ("status", "priority", "llm", "submitted", "remark")
        for line in self.shell("task", "list").splitlines():
            found, *cells = line.split("\t")
            if found == task_id:
                return dict(zip(columns, cells, strict=False))
        raise AssertionError(f"{task_id} is not listed")


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with site_on(rabbitmq, tmp_path_factory.mktemp("steering")) as site:
        site.coordinator()
        for name in ("ana", "bea"):
            site.worker(name, *OBEY, "--skills", "steer")
        with SyncClient(site.url) as client:
            yield Place(site, client)


@pytest.fixture(scope="module")
def shell(place: Place) -> Shell:
    return place.shell


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist yet, for tasks that wait for it."""
    return tmp_path / "gate"


# -- task assign, unassign -----------------------------------------------------------------------------------------


def test_a_pending_and_a_blocked_task_are_done_by_the_llm_that_they_are_given_to(place: Place, shell: Shell) -> None:
    first = f"first-{uuid7()}"
    pending, blocked = place.submit(skills=["unheard-of"]), place.submit(skills=["steer"], depends_on=[first])
    told = shell("task", "assign", pending, blocked, "bea").splitlines()
    assert re.fullmatch(rf"{pending}\t(assigned\tat bea|pending\twaiting for bea)", told[0])
    assert told[1] == f"{blocked}\tblocked\twaiting for 1 task"
    place.submit(id=first, skills=["steer"])
    for task_id in (pending, blocked):
        assert place.completed(task_id).llm == "bea"
    assert any("assigned to bea" in change.what for change in place.client.task(blocked).history)


def test_a_task_that_nobody_has_claimed_moves_at_once(place: Place, shell: Shell) -> None:
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


def test_a_running_task_is_moved_only_when_asked_and_its_call_really_stops(
    place: Place, shell: Shell, gate: Path, tmp_path: Path
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


def test_the_command_of_a_task_that_is_moved_is_gone(place: Place, shell: Shell, tmp_path: Path) -> None:
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


def test_an_unknown_llm_is_refused_or_waited_for_when_forced(place: Place, shell: Shell) -> None:
    task_id, ghost = place.submit(skills=["unheard-of"]), f"ghost-{uuid7()}"
    said = shell.error("task", "assign", task_id, ghost)
    assert said.startswith(f"{task_id}: assignee: no LLM named {ghost} has ever connected")
    assert shell.error("task", "submit", "x", "--assignee", ghost).startswith(f"assignee: no LLM named {ghost}")
    assert shell("task", "assign", task_id, ghost, "--force") == f"{task_id}\tpending\twaiting for {ghost}\n"
    submitted = shell("task", "submit", "x", "--assignee", ghost, "--force").strip()
    with place.worker(ghost):
        assert [place.completed(id_).llm for id_ in (task_id, submitted)] == [ghost, ghost]


def test_a_task_for_an_llm_that_is_offline_waits_visibly_and_is_done_when_it_comes(place: Place, shell: Shell) -> None:
    with place.worker("oda"):
        place.llm_is("oda", "online")
    place.llm_is("oda", "offline")
    task_id = shell("task", "submit", "x", "--assignee", "oda").strip()
    assert place.listed(task_id)["remark"] == "waiting for oda"
    assert re.search(r"^Waits: +for oda, which is offline$", shell("task", "show", task_id), re.MULTILINE)
    with place.worker("oda"):
        assert place.completed(task_id).llm == "oda"


def test_a_task_that_is_no_longer_given_to_anybody_is_assigned_by_itself(place: Place, shell: Shell) -> None:
    with place.worker("una"):
        place.llm_is("una", "online")
    task_id = place.submit(assignee="una", skills=["steer"])
    place.llm_is("una", "offline")
    shell("task", "unassign", task_id)
    assert place.completed(task_id).llm in ("ana", "bea")


def test_of_several_tasks_those_that_can_be_changed_are_and_each_other_is_told(place: Place, shell: Shell) -> None:
    first, last = place.submit(skills=["unheard-of"]), place.submit(skills=["unheard-of"])
    done = shell.run("task", "assign", first, "nope", last, "bea")
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: nope: id: there is no such task\n"
    assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == [first, last]
    assert [place.completed(task_id).llm for task_id in (first, last)] == ["bea", "bea"]


# -- task update ---------------------------------------------------------------------------------------------------


def test_a_higher_priority_goes_ahead_of_what_waits(place: Place, shell: Shell, gate: Path) -> None:
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


def test_what_is_given_changes_and_the_rest_stays(place: Place, shell: Shell) -> None:
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
    assert "over already" in shell.error("task", "update", task_id, "--priority", "1")


def test_a_task_that_is_overdue_is_flagged_and_told_once(place: Place, shell: Shell, gate: Path) -> None:
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


def test_a_task_that_is_submitted_too_late_is_overdue_from_the_start(place: Place, shell: Shell, gate: Path) -> None:
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


def test_cancel_says_what_it_has_ended(place: Place, shell: Shell, gate: Path, tmp_path: Path) -> None:
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
        f"{assigned}\tcancelled\ttaken back from cea before word came that attempt 1 began",
    ]
    until(stopped.exists, "the function of ana is cancelled")
    assert "cancelled while in progress at ana" in shell("task", "show", running)


def test_a_task_is_tried_again_with_other_fields(place: Place, shell: Shell) -> None:
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


def test_wait_takes_all_tasks_with_a_label(place: Place, shell: Shell) -> None:
    label = f"batch-{uuid7()}"
    ids = {place.submit(skills=["steer"], labels=[label]) for _ in range(3)}
    ends = shell("task", "wait", "--label", label).splitlines()
    assert {line.split("\t")[0] for line in ends} == ids


# -- task submit --dry-run -----------------------------------------------------------------------------------------


def test_a_dry_run_tells_who_would_get_a_task_and_why(place: Place, shell: Shell, gate: Path) -> None:
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
    assert "for one task" in shell.error("task", "submit", "x", "--dry-run", "--wait", code=2)
    assert list(place.client.tasks(label=[label])) == []


# -- llm pause, resume, drain, set ---------------------------------------------------------------------------------


def test_a_paused_llm_finishes_what_it_has_and_gets_nothing_new(place: Place, shell: Shell, gate: Path) -> None:
    with place.worker("pia", "--skills", "pia", "--slots", "2"):
        running = place.submit(skills=["pia"], inputs={"until": str(gate)})
        place.is_(running, "in_progress")
        assert shell("llm", "pause", "pia") == "pia\tpaused\t1/2\tpia\n"
        waiting = place.submit(skills=["pia"])
        gate.touch()
        place.completed(running)
        assert place.client.task(waiting).status == "pending"
        assert re.search(r"^Waits: +for pia, which is paused$", shell("task", "show", waiting), re.MULTILINE)
        [row] = [line.split("\t") for line in shell("llm", "list").splitlines() if line.startswith("pia\t")]
        assert row[1] == "paused"
        assert shell("llm", "resume", "pia").startswith("pia\tonline\t")
        assert place.completed(waiting).llm == "pia"
        shell("llm", "pause", "pia")
    place.llm_is("pia", "offline")
    assert shell.json("llm", "show", "pia")["paused"]
    assert re.search(r"^State: +offline, paused$", shell("llm", "show", "pia"), re.MULTILINE)


def test_a_drained_llm_finishes_what_it_has_and_ends(place: Place, shell: Shell, gate: Path) -> None:
    with place.worker("dan", "--skills", "dan", "--slots", "2") as dan:
        running = place.submit(skills=["dan"], inputs={"until": str(gate)})
        place.is_(running, "in_progress")
        assert shell("llm", "drain", "dan").startswith("dan\tdraining\t1/")
        left = place.submit(skills=["dan"])
        dan.wait_for("draining")
        gate.touch()
        assert dan.wait() == 0
    assert place.completed(running).llm == "dan"
    place.llm_is("dan", "offline")
    assert place.client.task(left).status == "pending"


def test_of_several_llms_those_that_are_known_are_changed(place: Place, shell: Shell) -> None:
    done = shell.run("llm", "resume", "ana", "nobody", "bea")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("Error: nobody: llm: no LLM named nobody has ever connected")
    assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == ["ana", "bea"]


def test_an_llm_has_no_more_slots_than_are_set_by_hand(place: Place, shell: Shell) -> None:
    with place.worker("sam", "--skills", "sam", "--slots", "5"):
        assert shell("llm", "set", "sam", "--slots", "1") == "sam\tonline\t0/1\tsam\n"
        assert re.search(r"^Slots: +1, at most 1 \(set by hand\)$", shell("llm", "show", "sam"), re.MULTILINE)
        ids = [place.submit(skills=["sam"]) for _ in range(10)]
        runs = [place.completed(task_id).attempts[0] for task_id in ids]
        moments = [(run.assigned_at, run.finished_at) for run in runs if run.assigned_at and run.finished_at]
        moments.sort()
        assert len(moments) == 10
        assert all(end <= begin for (_, end), (begin, _) in pairwise(moments))
        assert shell("llm", "set", "sam", "--slots", "auto") == "sam\tonline\t0/5\tsam\n"


def test_the_skills_that_are_set_by_hand_count(place: Place, shell: Shell) -> None:
    with place.worker("kai", "--skills", "kai=0.5"):
        assert shell("llm", "set", "kai", "--skills", "dance=0.9,sing").split("\t")[3] == "dance=0.9,sing\n"
        assert place.completed(place.submit(skills=["dance", "sing"])).llm == "kai"
        lost = place.submit(skills=["kai"])
        assert place.client.task(lost).status == "pending"
        shown = shell("llm", "show", "kai")
        assert re.search(r"^Skills: +dance=0.9,sing \(set by hand\)$", shown, re.MULTILINE)
        assert shell("llm", "set", "kai", "--skills", "auto").split("\t")[3] == "kai=0.5\n"
        assert place.completed(lost).llm == "kai"


# -- labels of LLMs ------------------------------------------------------------------------------------------------


def test_what_is_to_stay_here_never_goes_to_an_llm_that_is_not_local(place: Place, shell: Shell) -> None:
    with place.worker("far", "--skills", "read", "--slots", "5", "--labels", "gpu,remote"):
        private = place.submit(skills=["read"], labels=["local-only"])
        assert place.completed(place.submit(skills=["read"])).llm == "far"
        assert place.client.task(private).status is Status.PENDING
        shell("task", "assign", private, "far")
        assert place.completed(place.submit(skills=["read"])).llm == "far"
        assert place.client.task(private).status is Status.PENDING
        shell("task", "unassign", private)
        with place.worker("near", "--skills", "read", "--labels", "local"):
            assert place.completed(private).llm == "near"
            rows = [line.split("\t") for line in shell("llm", "list").splitlines()]
            labels = {row[0]: row[5] for row in rows}
            assert (labels["far"], labels["near"]) == ("gpu,remote", "local")
