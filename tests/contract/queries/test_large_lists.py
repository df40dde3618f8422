"""Lists of large tasks, messages and LLMs: bounded in bytes, memory and time, with `left_out` for what is missing."""

import dataclasses
import tracemalloc
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel, TypeAdapter

from broker.protocol.chat import Message
from broker.protocol.primitives import MAX_PAGE_BYTES
from broker.protocol.queries import ConversationsQuery, LLMsQuery, MessagesQuery, TaskQuery, TasksQuery
from broker.protocol.status import Status
from broker.protocol.views import ConversationPage, LLMList, MessagePage, TaskPage, TaskView
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant, to_datetime
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Change
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import ATTEMPT, NOW, a_task, commit, stored

M = TypeVar("M", bound=BaseModel)

LARGE = 900_000  # characters


def ask(queries: QueryHandlers, query: Any, kind: type[M]) -> M:
    """The answer to a query, which is not much larger than a page may be."""
    answer_type, body = queries.answer(query.routing_key, query.encode())
    assert answer_type == "query.answer", body
    assert len(body) < MAX_PAGE_BYTES + 100
    return TypeAdapter(kind).validate_json(body)


def test_a_list_cuts_long_texts_and_names_the_fields_left_out(queries: QueryHandlers, store: Store) -> None:
    description = "ü" * LARGE
    attempts = [
        dataclasses.replace(ATTEMPT, attempt=n, error=Failure(type="odd", message="m" * 2000)) for n in range(1, 31)
    ]
    task = a_task(
        1,
        status=Status.FAILED,
        description=description,
        metadata={"m": "m" * LARGE},
        output_schema={"description": "d" * LARGE},
        inputs="i" * LARGE,
        result="r" * LARGE,
        error=Failure(type="odd", message="m" * 2000),
        attempt=30,
        attempts=attempts,
        history=[Change(NOW, "ana", "w" * 2000)] * 50,
        labels=["red"],
    )
    stored(store, task)
    (shown,) = ask(queries, TasksQuery(), TaskPage).tasks
    assert shown.description == "ü" * 500 + "…"
    assert shown.left_out == {
        "description": 2 * LARGE,
        "metadata": LARGE + len('{"m":""}'),
        "output_schema": LARGE + len('{"description":""}'),
    }
    assert (shown.metadata, shown.output_schema, shown.inputs, shown.result) == ({}, None, None, None)
    assert shown.labels == ["red"]
    assert [(a.attempt, a.error and (a.error.type, a.error.message)) for a in shown.attempts] == [
        (n, ("odd", "")) for n in range(21, 31)
    ]
    assert [change.what for change in shown.history] == ["w" * 500 + "…"] * 10
    assert shown.error == Failure(type="odd", message="m" * 500 + "…")


def test_a_page_of_large_tasks_ends_early_and_the_next_continues(queries: QueryHandlers, store: Store) -> None:
    ids = [f"{number:0>63}" for number in range(1000)]
    stored(store, *(a_task(number, depends_on=ids) for number in range(1, 101)))
    seen: list[str] = []
    pages, before = 0, None
    while pages == 0 or before is not None:
        page = ask(queries, TasksQuery(limit=1000, before=before), TaskPage)
        seen += [view.id for view in page.tasks]
        before, pages = page.next, pages + 1
    assert seen == [f"t{number}" for number in range(100, 0, -1)]
    assert 3 <= pages <= 5


def test_a_list_of_large_tasks_takes_little_memory(queries: QueryHandlers, store: Store) -> None:
    large: dict[str, Any] = {"description": "d" * LARGE, "metadata": {"m": "m" * LARGE}}
    for start in range(1, 101, 10):
        stored(store, *(a_task(number, **large) for number in range(start, start + 10)))
    tracemalloc.start()
    page = ask(queries, TasksQuery(limit=1000), TaskPage)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(page.tasks) == 100
    assert most < 60_000_000, "180 MB of text are in the database"


def test_a_task_with_a_large_view_is_shown_with_the_fields_that_fit(queries: QueryHandlers, store: Store) -> None:
    stored(store, a_task(1, status=Status.COMPLETED, inputs="i" * LARGE, result="r" * 18_000_000))
    kind, body = queries.answer("task", TaskQuery(id="t1").encode())
    assert kind == "query.answer"
    shown = TaskView.model_validate_json(body)
    assert (shown.inputs, shown.result, shown.left_out) == ("i" * LARGE, None, {"result": 18_000_002})


def test_messages_are_listed_whole_page_by_page(queries: QueryHandlers, store: Store) -> None:
    said = [_said(number, "w" * LARGE) for number in range(10)]
    commit(store, StateChanges(messages={message.id: (message, NOW) for message in said}))
    seen: list[str] = []
    before = None
    while not seen or before is not None:
        page = ask(queries, MessagesQuery(limit=50, before=before), MessagePage)
        assert all(len(message.content) == LARGE for message in page.messages)
        seen += [message.id for message in page.messages]
        before = page.next
    assert seen == [f"m{number}" for number in range(9, -1, -1)]


def test_conversations_have_the_beginning_of_their_last_message(queries: QueryHandlers, store: Store) -> None:
    commit(store, StateChanges(messages={"m1": (_said(1, "w" * LARGE, metadata={"m": "m" * LARGE}), NOW)}))
    (conversation,) = ask(queries, ConversationsQuery(), ConversationPage).conversations
    assert conversation.last.content == "w" * 500 + "…"
    assert conversation.last.metadata == {}
    assert conversation.left_out == {"content": LARGE + 2, "metadata": LARGE + len('{"m":""}')}


def _said(number: int, content: str, **fields: Any) -> Message:
    return Message(
        id=f"m{number}",
        sender="user.ana",
        receiver="llm.ada",
        content=content,
        conversation_id="talk",
        sent_at=to_datetime(Instant(T0 + number)),
        **fields,
    )


def test_llms_are_listed_page_by_page(queries: QueryHandlers, store: Store) -> None:
    llms = {f"llm-{n:0>4}": LLM(f"llm-{n:0>4}", description="d" * 2000, last_seen=NOW) for n in range(3000)}
    commit(store, StateChanges(llms=llms))
    seen: list[str] = []
    page = LLMList(llms=[])
    while not seen or page.next is not None:
        page = ask(queries, LLMsQuery(after=page.next), LLMList)
        seen += [llm.name for llm in page.llms]
    assert seen == sorted(llms)
    page = ask(queries, LLMsQuery(limit=2, after="llm-2996"), LLMList)
    assert ([llm.name for llm in page.llms], page.next) == (["llm-2997", "llm-2998"], "llm-2998")


def test_an_llm_with_a_large_view_is_shown_with_the_fields_that_fit(queries: QueryHandlers, store: Store) -> None:
    llm = LLM("odd", skills={f"skill-{n:0>50}": 1.0 for n in range(50_000)}, last_seen=NOW)
    llm.instances = {"i": Instance("i", 1, NOW)}
    commit(store, StateChanges(llms={"odd": llm}))
    (shown,) = ask(queries, LLMsQuery(), LLMList).llms
    assert (shown.skills, list(shown.left_out), shown.slots) == ({}, ["skills"], 1)


def test_a_forgotten_llm_is_gone_and_can_come_back(queries: QueryHandlers, store: Store) -> None:
    commit(store, StateChanges(llms={"ada": LLM("ada", paused=True), "bo": LLM("bo")}))
    commit(store, StateChanges(forgotten=["ada"]))
    assert [llm.name for llm in ask(queries, LLMsQuery(), LLMList).llms] == ["bo"]
    commit(store, StateChanges(forgotten=["bo"], llms={"ada": LLM("ada"), "bo": LLM("bo", model="new")}))
    assert [(llm.name, llm.model, llm.paused) for llm in ask(queries, LLMsQuery(), LLMList).llms] == [
        ("ada", "", False),
        ("bo", "new", False),
    ]


def test_a_dependency_that_is_not_submitted_is_named(queries: QueryHandlers, store: Store) -> None:
    known = a_task(1)
    waits = a_task(2, status=Status.BLOCKED, depends_on=["t1", "typo", "later"], waiting_on=3)
    fine = a_task(3, status=Status.BLOCKED, depends_on=["t1"], waiting_on=1)
    stored(store, known, waits, fine, waits=[(waits, frozenset({"t1", "typo", "later"})), (fine, frozenset({"t1"}))])
    listed = {view.id: view.not_submitted for view in ask(queries, TasksQuery(), TaskPage).tasks}
    assert listed == {"t1": [], "t2": ["later", "typo"], "t3": []}
    assert ask(queries, TaskQuery(id="t2"), TaskView).not_submitted == ["later", "typo"]
    stored(store, a_task(4, id="later"))
    assert ask(queries, TaskQuery(id="t2"), TaskView).not_submitted == ["typo"]


@pytest.mark.parametrize("text", ["ärger", "ÄRGER", "büro", "привет", "ПРИВЕТ", "Straße", "%", "日本"])
def test_a_search_ignores_case_in_every_alphabet(queries: QueryHandlers, store: Store, text: str) -> None:
    stored(store, a_task(1, description="Ärger im Büro ПРИВЕТ 100% straße 日本"), a_task(2, description="nothing"))
    commit(store, StateChanges(messages={"m1": (_said(1, "Ärger im Büro ПРИВЕТ 100% straße 日本"), NOW)}))
    assert [view.id for view in ask(queries, TasksQuery(text=text), TaskPage).tasks] == ["t1"]
    assert [view.id for view in ask(queries, MessagesQuery(text=text), MessagePage).messages] == ["m1"]
