"""People pause, drain and set LLMs by hand: real commands on real processes."""

import re
from itertools import pairwise
from pathlib import Path

from broker.protocol.status import Status
from tests.support.shell import Shell
from tests.support.steered_site import SteeredSite

# -- llm pause, resume, drain, set ---------------------------------------------------------------------------------


def test_a_paused_llm_finishes_its_tasks_and_gets_no_new_ones(place: SteeredSite, shell: Shell, gate: Path) -> None:
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


def test_a_drained_llm_finishes_its_tasks_and_ends(place: SteeredSite, shell: Shell, gate: Path) -> None:
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


def test_a_command_for_several_llms_changes_the_known_ones(place: SteeredSite, shell: Shell) -> None:
    done = shell.run("llm", "resume", "ana", "nobody", "bea")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("Error: nobody: llm: no LLM named nobody has ever connected")
    assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == ["ana", "bea"]


def test_an_llm_has_no_more_slots_than_are_set_by_hand(place: SteeredSite, shell: Shell) -> None:
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


def test_skills_set_by_hand_decide_the_assignment(place: SteeredSite, shell: Shell) -> None:
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


def test_a_task_for_local_llms_is_never_assigned_to_a_remote_one(place: SteeredSite, shell: Shell) -> None:
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
            labels = {row[0]: row[-2] for row in rows}
            assert (labels["far"], labels["near"]) == ("gpu,remote", "local")
