"""A site whose tasks and LLMs are changed by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluffle.client.sync import SyncClient
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import site_on
from tests.support.steered_site import OBEY, SteeredSite


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteeredSite]:
    with site_on(rabbitmq, tmp_path_factory.mktemp("steering")) as site:
        site.coordinator()
        for name in ("ana", "bea"):
            site.worker(name, *OBEY, "--skills", "steer")
        with SyncClient(site.url) as client:
            yield SteeredSite(site, client)


@pytest.fixture(scope="module")
def shell(place: SteeredSite) -> Shell:
    return place.shell


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist yet, for tasks that wait for it."""
    return tmp_path / "gate"
