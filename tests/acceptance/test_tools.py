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
