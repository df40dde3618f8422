"""What LLMs do while they work, with real processes: delegate, ask people, and be stopped meanwhile."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from broker.messages import Status
from fluffle import SyncClient
from tests.support.ledger import Ledger
from tests.support.processes import until
from tests.support.site import Site

HERE = "tests.support.teamwork"
RING = ["ada", "bea", "cleo"]
TIMEOUT = 3.0  # seconds


@pytest.fixture
def person(site: Site) -> Iterator[SyncClient]:
    """Somebody with a client."""
    site.coordinator()
    with SyncClient(site.url) as client:
        yield client


@pytest.mark.parametrize("handler", ["hand_on", "hand_on_in_thread"])
def test_three_llms_with_one_slot_each_delegate_in_a_ring(site: Site, person: SyncClient, handler: str) -> None:
    for name in RING:
        site.worker(name, "--handler", f"{HERE}:{handler}")
    ways = {name: (RING * 3)[n + 1 : n + 6] for n, name in enumerate(RING)}
    tasks = [
        (way, person.submit("go round", assignee=name, inputs={"way": way}))
        for name, way in ways.items()
        for _ in range(3)
    ]
    for way, task in tasks:
        assert task.result(60) == way
    [(children,)] = site.select("select count(*) from tasks where parent_id is not null")
    assert children == len(tasks) * 5


def test_a_question_is_answered_while_its_llm_does_other_work(site: Site, person: SyncClient, ledger: Ledger) -> None:
    site.worker("ada", "--handler", f"{HERE}:ask", **ledger.env)
    task = person.submit(
        "paint", assignee="ada", inputs={"questions": ["Which colour?", "Which size?"]}, timeout=TIMEOUT
    )
    other = person.submit("nothing to ask", assignee="ada", inputs={"questions": []})
    assert other.result(20) == {}
    until(lambda: person.task(task.id).status is Status.INPUT_REQUIRED, "it asks")
    [asked] = person.task(task.id).questions
    assert (asked.text, asked.answer) == ("Which colour?", None)
    assert person.llm("ada").parked == 1
    until(lambda: (datetime.now(UTC) - asked.asked_at).total_seconds() > TIMEOUT + 0.5, "the timeout is past")
    person.answer(task.id, "blue")
    until(lambda: len(person.task(task.id).questions) == 2, "it asks the second question")
    person.answer(task.id, "small")
    assert task.result(20) == {"Which colour?": "blue", "Which size?": "small"}
    view = person.task(task.id)
    assert [attempt.outcome for attempt in view.attempts] == ["completed"]
    assert view.person_wait is not None
    assert view.person_wait > TIMEOUT
    assert view.attempts[0].duration is not None
    assert view.attempts[0].duration < TIMEOUT


def test_a_question_outlives_the_worker_that_asked(site: Site, person: SyncClient, ledger: Ledger) -> None:
    env = {**ledger.env, "FLUFFLE_LEASE": "2"}
    worker = site.worker("ada", "--handler", f"{HERE}:ask", **env)
    task = person.submit("paint", inputs={"questions": ["Which colour?", "Which size?"]}, max_attempts=1)
    until(lambda: person.task(task.id).status is Status.INPUT_REQUIRED, "it asks")
    person.answer(task.id, "blue")
    until(lambda: len(person.task(task.id).questions) == 2, "it asks the second question")
    worker.kill()
    until(lambda: person.task(task.id).attempts[0].outcome == "lost", "the worker is missed")
    assert person.task(task.id).status is Status.INPUT_REQUIRED
    site.worker("ada", "--handler", f"{HERE}:ask", **env)
    assert [effect["attempt"] for effect in ledger.effects("started")] == [1]
    person.answer(task.id, "small")
    assert task.result(20) == {"Which colour?": "blue", "Which size?": "small"}
    assert [effect["attempt"] for effect in ledger.effects("started")] == [1, 2]
    assert len(person.task(task.id).questions) == 2


def test_what_cannot_be_done_is_told_to_the_llm(site: Site, person: SyncClient) -> None:
    site.worker("ada", "--handler", f"{HERE}:consult", "--tools", "delegate,send", "--skills", "talk")
    tries = [
        ["delegate", {"description": "x", "assignee": "nobody"}],
        ["delegate", {"description": "x", "skills": ["dance"]}],
        ["delegate", {"description": "work", "assignee": "ada", "inputs": 1}],
        ["send", {"to": "user.nobody", "text": "hello"}],
        ["ask_person", {"question": "may I?"}],
    ]
    unknown, unable, failed, undelivered, denied = person.submit("try", inputs=tries, max_attempts=1).result(30)
    assert unknown == "ToolError: there is no LLM named nobody; there are: ada (talk)"
    assert unable == "ToolError: no LLM has the skills dance; there are: ada (talk)"
    assert failed.startswith("ToolError: task ")
    assert "failed: TypeError" in failed
    assert undelivered == "ToolError: nobody has the address user.nobody"
    assert denied == "ToolError: ada may not use ask_person"


def test_all_that_work_on_a_task_share_notes(site: Site, person: SyncClient) -> None:
    for name in ("ada", "bea"):
        site.worker(name, "--handler", f"{HERE}:consult")
    part = [["read", {"name": "plan"}], ["share", {"name": "facts", "content": "two"}], ["read", {"name": "none"}]]
    whole = [
        ["share", {"name": "plan", "content": "first"}],
        ["share", {"name": "plan", "content": "last"}],
        ["delegate", {"description": "a part", "assignee": "bea", "inputs": part}],
        ["read", {"name": "facts"}],
    ]
    _, _, from_bea, facts = person.submit("the whole", assignee="ada", inputs=whole).result(30)
    assert from_bea == ["last", None, "ToolError: name: there is no note none; there are: facts, plan"]
    assert facts == "two"
    empty = person.submit("another", assignee="ada", inputs=[["read", {"name": "plan"}]]).result(30)
    assert empty == ["ToolError: name: there is no note plan; the board is empty"]
