"""The web page on real processes: broker, coordinator, LLMs; and browsers of its visitors."""

from collections.abc import Iterator

import pytest

from fluffle import SyncClient
from tests.support.browser import Visit, browser, chromium, visit
from tests.support.processes import fluffle
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on
from tests.support.web_site import WebSite


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSite]:
    """One place for all tests: they have different tasks."""
    chromium()
    folder = tmp_path_factory.mktemp("web")
    with site_on(rabbitmq, folder) as site:
        site.coordinator()
        site.worker("ada", "--model", "demo", "--skills", "summarise=1.0")
        site.worker("ben", "--model", "demo", "--skills", "summarise=0.8,edit", "--slots", "2")
        site.worker("cleo", "--model", "demo", "--skills", "review")
        site.worker("obi", "--handler", "tests.support.scripted_llm:obey", "--skills", "obey", "--slots", "8")
        # The browser comes last: while it runs, so does an event loop.
        # What it writes comes in two parts, the second when the file is there.
        speak = f"sh -c 'echo First **part**.; while [ ! -e {folder}/speak ]; do sleep 0.05; done; echo Second part.'"
        site.worker("wren", "--exec", speak, "--slots", "2")
        with (
            fluffle("web", "--port", "0", url=site.url, state=folder, until="to look") as web,
            SyncClient(site.url, user="tess") as client,
            browser() as running,
        ):
            yield WebSite(site, web, client, running)


@pytest.fixture
def operator(place: WebSite) -> Iterator[Visit]:
    """Somebody who may do everything."""
    with visit(place.browser, place.base, place.to_work) as visitor:
        yield visitor


@pytest.fixture
def viewer(place: WebSite) -> Iterator[Visit]:
    """Somebody who may only look."""
    with visit(place.browser, place.base, place.to_look) as visitor:
        yield visitor
