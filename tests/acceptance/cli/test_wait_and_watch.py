"""`fluffle task wait`, `watch`, `cancel` and `retry`."""

import json
import re
from pathlib import Path

from broker.ids import uuid7
from tests.support.processes import fluffle, until
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.waiting_tasks import waiting_task


def test_wait_ends_with_the_tasks(shell: Shell, place: Site, gate: Path) -> None:
    label = f"wait-{uuid7()}"
    ids = [waiting_task(shell, gate, "-l", label) for _ in range(2)]
    with (
        fluffle("task", "wait", *ids, url=place.url, state=place.state) as one,
        fluffle("task", "wait", "--label", label, url=place.url, state=place.state) as other,
    ):
        soon, late = ("--timeout", "0.2"), "ended after 0.2 s"
        assert shell.error("task", "wait", ids[0], *soon, code=4) == f"the task has not {late}"
        assert shell.error("task", "wait", *ids, *soon, code=4) == f"2 of 2 tasks have not {late}"
        assert shell.error("task", "wait", "--label", label, *soon, code=4) == f"some of the tasks have not {late}"
        assert one.alive
        assert other.alive
        gate.touch()
        assert [one.wait(), other.wait()] == [0, 0]
    for process in (one, other):
        assert sorted(line.split("\t")[0] for line in process.output.splitlines()) == sorted(ids)


def test_wait_has_a_separate_exit_code_for_tasks_that_were_not_completed(shell: Shell) -> None:
    failing = shell("task", "submit", "x", "--input", '{"fail": "no ink"}', "-k", "obey").strip()
    good = shell("task", "submit", "x", "-k", "obey").strip()
    printed = shell("task", "wait", failing, good, code=3)
    assert re.search(rf"^{failing}\tfailed\t\S+\tbroken: no ink$", printed, re.MULTILINE)
    assert shell.error("task", "wait", "nope") == "id: there is no task nope"
    assert shell.error("task", "wait", "--label", "nobody-has-it") == "no task has the label 'nobody-has-it'"


def test_watch_prints_events_until_the_task_ends(shell: Shell, place: Site, gate: Path) -> None:
    task_id = waiting_task(shell, gate)
    with fluffle("task", "watch", task_id, url=place.url, state=place.state, until=task_id) as watching:
        gate.touch()
        assert watching.wait() == 0
    assert watching.output.splitlines()[-1].endswith(f"{task_id}  completed at obi")


def test_watch_prints_the_text_of_the_llm_while_it_writes(shell: Shell, place: Site, gate: Path) -> None:
    script = f"cat > /dev/null; until [ -e {gate} ]; do echo tick; sleep 0.05; done; echo done"
    with fluffle("worker", "tia", "--exec", f"sh -c '{script}'", "-k", "talk", url=place.url, state=place.state):
        task_id = shell("task", "submit", "talk", "-k", "talk").strip()
        with fluffle("task", "watch", task_id, url=place.url, state=place.state, until="tick\n") as watching:
            gate.touch()
            assert watching.wait() == 0
    assert watching.output.splitlines()[-1].endswith(f"{task_id}  completed at tia")


def test_watch_with_json_prints_events(shell: Shell, gate: Path) -> None:
    gate.touch()
    task_id = waiting_task(shell, gate)
    events = [json.loads(line) for line in shell("task", "watch", task_id, "--json").splitlines()]
    assert {event["subject"] for event in events} == {task_id}
    assert (events[-1]["type"], events[-1]["data"]["result"]) == ("fluffle.task.completed", "through")


def test_cancel_and_retry_print_the_new_state_of_tasks(shell: Shell, gate: Path) -> None:
    ids = [waiting_task(shell, gate), waiting_task(shell, gate)]
    until(lambda: {shell.json("task", "show", id_)["status"] for id_ in ids} == {"in_progress"}, "both run")
    told = shell("task", "cancel", *ids, "--reason", "no need").splitlines()
    assert told == [f"{id_}\tcancelled\tstopped at obi in attempt 1" for id_ in ids]
    assert "no need (by " in shell("task", "show", ids[0])
    assert shell.error("task", "cancel", "nope") == "nope: id: there is no such task"
    assert "the task is already cancelled" in shell.error("task", "cancel", ids[0])
    gate.touch()
    assert shell.json("task", "retry", ids[0])["id"] == ids[0]
    assert shell("task", "wait", ids[0]).split("\t")[1] == "completed"
