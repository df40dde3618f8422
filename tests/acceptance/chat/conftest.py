"""A site with a coordinator, the LLM ada, and the people Ana and Bo."""

from collections.abc import Iterator

import pytest

from fluffle.client.sync import SyncClient
from tests.support.chat_history import CONVERSE
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.task_audit import Ledger


@pytest.fixture
def site(site: Site, ledger: Ledger) -> Site:
    """A site with a coordinator."""
    site.coordinator()
    return site


@pytest.fixture
def ada(site: Site, ledger: Ledger) -> str:
    """An LLM that tells what was said before, with one slot."""
    site.worker("ada", *CONVERSE, env=ledger.env)
    return "ada"


@pytest.fixture
def shell(site: Site) -> Shell:
    """The command line of Ana."""
    shell = Shell(site.url, site.state)
    shell.environment["FLUFFLE_USER"] = site.person("ana")
    return shell


@pytest.fixture
def ana(site: Site) -> Iterator[SyncClient]:
    with SyncClient(site.url, user=site.person("ana")) as client:
        yield client


@pytest.fixture
def bo(site: Site) -> Iterator[SyncClient]:
    with SyncClient(site.url, user=site.person("bo")) as client:
        yield client
