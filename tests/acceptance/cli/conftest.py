"""A site for the tests of the commands: real processes on a real broker with a real coordinator."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on

OBEY = ("--handler", "tests.support.scripted_llm:obey", "--slots", "20", "--skills", "obey=0.9,summarise")


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator and the LLM obi, which does what the inputs of its tasks say."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("cli")) as site:
        site.coordinator()
        site.worker("obi", *OBEY, "--description", "obeys")
        yield site


@pytest.fixture(scope="module")
def shell(place: Site) -> Shell:
    """A shell that runs commands on that site."""
    return Shell(place.url, place.state)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist yet, for tasks that wait for it."""
    return tmp_path / "gate"
