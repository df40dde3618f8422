"""The tools of LLMs with real processes: delegate, ask people, and be cancelled meanwhile."""

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from broker.protocol.status import Status
from fluffle import SyncClient, TaskRejected
from tests.support.openai_server import Dropped, OpenAIServer, Refusal, Text, ToolCall
from tests.support.processes import COMMAND, until
from tests.support.site import Site
from tests.support.task_audit import Ledger
from tests.support.thoroughness import slow

HERE = "tests.support.tool_llms"
RING = ["ada", "bea", "cleo"]
TIMEOUT = 3.0  # seconds


@pytest.fixture
def person(site: Site) -> Iterator[SyncClient]:
    """Return the client of a person."""
    site.coordinator()
    with SyncClient(site.url) as client:
        yield client


@pytest.mark.parametrize("handler", ["hand_on", pytest.param("hand_on_in_thread", marks=slow), "hand_on_as_model"])
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
    site.worker("ada", "--handler", f"{HERE}:ask", env=ledger.env)
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


def test_a_question_survives_the_worker_that_asked_it(site: Site, person: SyncClient, ledger: Ledger) -> None:
    env = {**ledger.env, "FLUFFLE_LEASE": "2"}
    worker = site.worker("ada", "--handler", f"{HERE}:ask", env=env)
    task = person.submit("paint", inputs={"questions": ["Which colour?", "Which size?"]}, max_attempts=1)
    until(lambda: person.task(task.id).status is Status.INPUT_REQUIRED, "it asks")
    person.answer(task.id, "blue")
    until(lambda: len(person.task(task.id).questions) == 2, "it asks the second question")
    worker.kill()
    until(lambda: person.task(task.id).attempts[0].outcome == "lost", "the worker is missed")
    assert person.task(task.id).status is Status.INPUT_REQUIRED
    site.worker("ada", "--handler", f"{HERE}:ask", env=env)
    assert [effect["attempt"] for effect in ledger.effects("started")] == [1]
    person.answer(task.id, "small")
    assert task.result(20) == {"Which colour?": "blue", "Which size?": "small"}
    assert [effect["attempt"] for effect in ledger.effects("started")] == [1, 2]
    assert len(person.task(task.id).questions) == 2


def test_a_failed_tool_call_is_reported_to_the_llm(site: Site, person: SyncClient) -> None:
    site.worker("ada", "--handler", f"{HERE}:consult", "--tools", "delegate,send", "--skills", "talk")
    site.worker("gone", "--model", "demo").end()
    tries = [
        ["delegate", {"description": "x", "assignee": "nobody"}],
        ["delegate", {"description": "x", "skills": ["dance"]}],
        ["delegate", {"description": "work", "assignee": "ada", "inputs": 1}],
        ["send", {"to": "user.nobody", "text": "hello"}],
        ["send", {"to": "user.ada", "text": "hello"}],
        ["ask_person", {"question": "may I?"}],
    ]
    unknown, unable, failed, undelivered, mistaken, denied = person.submit("try", inputs=tries, max_attempts=1).result(
        30
    )
    assert unknown == "ToolError: there is no LLM named nobody; there are: ada (talk); gone (no skills, offline)"
    assert unable == "ToolError: no LLM has the skills dance; there are: ada (talk); gone (no skills, offline)"
    assert failed.startswith("ToolError: task ")
    assert "failed: TypeError" in failed
    assert undelivered == "ToolError: nobody has the address user.nobody"
    assert mistaken == "ToolError: nobody has the address user.ada; did you mean llm.ada?"
    assert denied == "ToolError: ada may not use ask_person"


def test_llms_of_a_conversation_share_notes(site: Site, person: SyncClient) -> None:
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


def told_by_tools(server: OpenAIServer, request: int) -> list[str]:
    """Return the answers of the tools so far in a request to a model."""
    return [message["content"] for message in server.requests[request].body["messages"] if message["role"] == "tool"]


def test_models_of_a_provider_delegate_in_a_ring(site: Site, person: SyncClient) -> None:
    def hand_on_to(name: str) -> ToolCall:
        arguments = json.dumps({"description": f"go on to {name}", "assignee": name})
        return ToolCall(arguments[:9], arguments[9:], name="delegate")

    with ExitStack() as stack:
        ada, bea, cleo = (stack.enter_context(OpenAIServer()) for _ in RING)
        ada.script(ToolCall('{"description": "go', name="delegate"), hand_on_to("bea"), Text("a leaf"), Text("ada"))
        bea.script(Refusal(429, "slow down", {"Retry-After": "0.1"}), hand_on_to("nobody"), hand_on_to("cleo"))
        bea.script(Refusal(500, "out of memory", {"Retry-After": "0.01"}), Text("b", "ea"))
        cleo.script(Dropped("I will ha"), hand_on_to("ada"), Text("cleo"))
        for name, server in zip(RING, (ada, bea, cleo), strict=True):
            site.worker(name, "--model", "any", "--base-url", server.url, "--tools", "delegate", OPENAI_API_KEY="k")
        assert person.submit("go round", assignee="ada", max_attempts=1).result(60) == "ada"
        assert [tool["function"]["name"] for tool in ada.requests[0].body["tools"]] == ["delegate"]
        assert "Invalid JSON" in told_by_tools(ada, 1)[0]
        assert "there is no LLM named nobody; there are: ada" in told_by_tools(bea, 2)[0]
        assert told_by_tools(cleo, 2) == ["a leaf"]
        assert told_by_tools(bea, -1)[1:] == ["cleo"]
        assert [server.replies_left for server in (ada, bea, cleo)] == [0, 0, 0]


def test_a_model_of_a_provider_asks_a_person_and_reads_the_answer_after_a_restart(
    site: Site, person: SyncClient
) -> None:
    with OpenAIServer() as server:
        options = ("--model", "any", "--base-url", server.url, "--tools", "all")
        server.script(ToolCall('{"question": "Which colour?"}', name="ask_person"), Text("It is blue."))
        worker = site.worker("ada", *options, OPENAI_API_KEY="k", FLUFFLE_LEASE="2")
        task = person.submit("paint", max_attempts=1)
        until(lambda: person.task(task.id).status is Status.INPUT_REQUIRED, "it asks")
        worker.kill()
        person.answer(task.id, "blue")
        site.worker("ada", *options, OPENAI_API_KEY="k", FLUFFLE_LEASE="2")
        assert task.result(60) == "It is blue."
        [prompt] = [m["content"] for m in server.requests[1].body["messages"] if m["role"] == "user"]
        assert 'question="Which colour?">\nblue' in prompt


def test_a_command_uses_the_tools_of_its_worker(site: Site, person: SyncClient) -> None:
    fluffle = shlex.quote(str(COMMAND))
    script = site.state / "agent.sh"
    script.write_text(
        f"""set -e
        facts=$({fluffle} tool delegate "count" --assignee bea --input '[["share", {{"name": "n", "content": "7"}}]]')
        colour=$({fluffle} tool ask-person "Which colour?" --choice blue --choice red)
        echo "$facts $({fluffle} tool read n) $colour"
        {fluffle} tool send user.nobody hello || echo "not sent"
        """
    )
    site.worker("vega", "--exec", f"sh {shlex.quote(str(script))}")
    site.worker("bea", "--handler", f"{HERE}:consult")
    task = person.submit("go", assignee="vega", max_attempts=1)
    until(lambda: person.task(task.id).status is Status.INPUT_REQUIRED, "it asks")
    with pytest.raises(TaskRejected, match="must be one of: blue, red"):
        person.answer(task.id, "green")
    person.answer(task.id, "blue")
    assert task.result(60) == "[null] 7 blue\nnot sent"


def test_cancelling_a_task_cancels_its_five_running_parts(site: Site, person: SyncClient, ledger: Ledger) -> None:
    site.worker("ada", "--handler", f"{HERE}:spread", "--slots", "5", env=ledger.env)
    task = person.submit("the whole", inputs=[2, 1])  # two parts, and one part of each, which wait for ever
    more = person.submit("another", parent_id=task.id)
    until(lambda: len(ledger.effects("started")) == 6, "the whole and its five descendants have begun")
    person.cancel(task.id)
    ids = [row.id for row in site.select("select id from tasks")]
    ended = person.wait(*ids, timeout=30)
    assert {view.status for view in ended} == {Status.CANCELLED}
    assert len(ended) == 6
    assert more.id in ids
    until(lambda: person.llm("ada").tasks == [], "no LLM holds a task")
    assert person.submit("one more", inputs=[0]).result(20) == []
