"""Several LLMs on one task: real processes on a real RabbitMQ."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.ids import uuid7
from fluffle.sync import SyncClient
from tests.support.node import NodeInfo
from tests.support.processes import until
from tests.support.site import Site, site_on

OBEY = ("--handler", "tests.support.obedient:obey")


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_on(rabbitmq, tmp_path_factory.mktemp("teams")) as site:
        site.coordinator()
        for name in ("ana", "bea", "cem"):
            site.worker(name, *OBEY, "--slots", "4")
        yield site


@pytest.fixture
def desk(place: Site) -> Iterator[SyncClient]:
    with SyncClient(place.url) as desk:
        yield desk


def test_five_running_descendants_are_stopped_with_the_task_that_is_cancelled(desk: SyncClient, tmp_path: Path) -> None:
    run, parents = uuid7(), {"a": None, "a1": "a", "a2": "a", "a11": "a1", "a12": "a1", "a111": "a11"}
    for name, parent in parents.items():
        inputs = {"until": str(tmp_path / "never"), "stopped": str(tmp_path / f"{name}-stopped")}
        above = {} if parent is None else {"parent_id": f"{run}-{parent}"}
        task = desk.submit(f"part {name}", id=f"{run}-{name}", inputs=inputs, **above)
        until(lambda task=task: desk.task(task.id).status == "in_progress", f"{name} runs")
    desk.cancel(f"{run}-a", "no longer needed")
    ended = {
        view.id.removeprefix(f"{run}-"): view for view in desk.wait(*(f"{run}-{name}" for name in parents), timeout=30)
    }
    assert {name: view.status for name, view in ended.items()} == dict.fromkeys(parents, "cancelled")
    until(lambda: len(list(tmp_path.glob("*-stopped"))) == 6, "every call was stopped")
    for name, parent in parents.items():
        why = "no longer needed" if parent is None else f"{run}-{parent}, which it is part of, was cancelled"
        assert ended[name].history[-1].what == f"cancelled while in progress at {ended[name].llm}: {why}"
