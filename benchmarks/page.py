"""How fast the page opens with 100,000 tasks in the database, and whether a long visit makes its memory grow.

    .venv/bin/python benchmarks/page.py --tasks 100000 --visits 20 --stay 400

One coordinator with SQLite, one demo LLM and `fluffle web` on a private RabbitMQ, and a real Chromium. Every page is
opened by somebody who has just logged in. Then one visitor keeps the list open while tasks are done and others come and
go; the memory of the server and that of the open page are looked at after each quarter of the stay.
"""

import argparse
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from rich.progress import Progress

from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.processes import PROGRAMS, BenchmarkFailed, Processes, run_program
from benchmarks.support.report import Bar, console, print_bars, print_table, write_json
from benchmarks.support.waiting import LEASE, Amount, fill
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.timestamps import now
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from fluffle import SyncClient, TaskRejected

FLUFFLE = str(PROGRAMS / "fluffle")
PATIENCE = 60.0  # seconds
SEEN = {  # path -> the element that is present as soon as the content can be read
    "/": "tbody tr[data-id]",
    "/tasks/{task}": ".task-status .status",
    "/llms": "[data-llm]",
    "/reports": ".report .tile",
    "/new": "form textarea",
}
QUARTERS = 4
EACH = 10  # tasks that are done for every visit of the stay
OPTIONS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


@dataclass(frozen=True, slots=True)
class Opened:
    """The time to open a page: milliseconds until the first paint, and until the content can be read."""

    path: str
    painted: float
    readable: float


@dataclass(frozen=True, slots=True)
class Weight:
    """The memory after some visits: bytes of the server, bytes and nodes of the page that stays open."""

    visits: int
    server: int
    page: float
    nodes: float


def make(database: Path, tasks: int) -> None:
    """Create a database with this many tasks, 1% of them waiting."""
    store = Store(open_engine(f"sqlite:///{database}"))
    upgrade(store.engine)
    store.take_lead("benchmark", now(), LEASE)
    waiting = tasks // 100
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"{tasks:,} tasks", total=tasks)
        fill(store, Amount(waiting, 0, tasks - waiting), lambda done: progress.update(bar, completed=done))
    store.give_up_lead()
    store.close()


@contextmanager
def running(folder: Path, url: str) -> Iterator[tuple[str, int]]:
    """Run coordinator, LLM and page; yield the address with full access and the process id of the page's server."""
    with Processes(folder, {"FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(folder)}) as processes:
        processes.start_until((FLUFFLE, "coordinator"), "coordinator: ready, leading", PATIENCE)
        noop = ("--handler", "benchmarks.systems.fluffle_handler:noop", "--slots", "20")
        processes.start_until((FLUFFLE, "worker", "quick", *noop), "quick: ready", PATIENCE)
        web = processes.start((FLUFFLE, "web", "--port", "0"))
        printed = processes.wait_for(web, "to look", PATIENCE)
        [login] = re.findall(r"to work: (http://\S+)", printed)
        yield login, web.pid


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless browser. Raises BenchmarkFailed without one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise BenchmarkFailed("there is no Chromium: on Debian it comes with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS.split())
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, login: str) -> Iterator[Page]:
    """Log in with an empty browser cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    try:
        page = context.new_page()
        page.request.get(login)
        yield page
    finally:
        context.close()


def open_each(browser: Browser, login: str, task: str, times: int) -> Iterator[Opened]:
    """Open every page several times, in turn."""
    base = login.partition("/login")[0]
    for _ in range(times):
        for path, seen in SEEN.items():
            with visit(browser, login) as page:
                page.goto(base + path.format(task=task), wait_until="commit")
                page.locator(seen).first.wait_for()
                readable = page.evaluate("performance.now()")
                page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
                painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
                yield Opened(path, painted, readable)


def stay(browser: Browser, login: str, server: int, visits: int, client: SyncClient) -> Iterator[Weight]:
    """Keep the list open while others visit and tasks complete; return the memory before and after each quarter."""
    base = login.partition("/login")[0]
    with visit(browser, login) as page:
        page.goto(base + "/")
        page.locator(SEEN["/"]).first.wait_for()
        session = page.context.new_cdp_session(page)
        yield _weigh(0, server, session)
        for quarter in range(QUARTERS):
            for number in range(visits // QUARTERS):
                newest = do_some(client)
                with visit(browser, login) as other:
                    path = ("/", f"/tasks/{newest}", "/reports", "/llms")[number % 4]
                    other.goto(base + path)
                    other.wait_for_function("window.did_handshake === true")
                page.locator(f'tr[data-id="{newest}"]').wait_for()
            yield _weigh((quarter + 1) * (visits // QUARTERS), server, session)


def _weigh(visits: int, server: int, session: CDPSession) -> Weight:
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    found = {it["name"]: it["value"] for it in session.send("Performance.getMetrics")["metrics"]}
    return Weight(visits, psutil.Process(server).memory_info().rss, found["JSHeapUsedSize"], found["Nodes"])


def do_some(client: SyncClient) -> str:
    """Run a few tasks and return the id of the last one. Raises BenchmarkFailed when one is not completed."""
    handles = list(client.submit_many(Submission(description="-") for _ in range(EACH)))
    views = client.wait(*(it.id for it in handles if not isinstance(it, TaskRejected)), timeout=PATIENCE)
    if len(views) != EACH or any(it.status is not Status.COMPLETED for it in views):
        raise BenchmarkFailed("a task was not done")
    return views[-1].id


def arguments() -> argparse.Namespace:
    """Return the sizes given on the command line."""
    parser = command(__doc__)
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks in the database (100000)")
    parser.add_argument("--visits", type=int, default=10, help="how often each page is opened (10)")
    parser.add_argument("--stay", type=int, default=200, help="how many others come while one stays (200)")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables, write the file."""
    sizes = arguments()
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on:
        place = Path(folder) / "place"
        place.mkdir()
        make(place / "fluffle.db", sizes.tasks)
        with running(place, on.url) as (login, server), SyncClient(on.url) as client, chromium() as browser:
            newest = do_some(client)
            console.print("[dim]every page[/dim]")
            freed_llms = list(open_each(browser, login, newest, sizes.visits))
            console.print("[dim]a long stay[/dim]")
            weights = list(stay(browser, login, server, sizes.stay, client))
    by_path = {path: [it for it in freed_llms if it.path == path] for path in SEEN}
    print_table(
        f"Pages with {sizes.tasks:,} tasks in the database, on {on.name}",
        ("page", "painted: median", "most", "readable: median", "most"),
        [
            (path, *(f"{figure(times):.0f} ms" for times in _times(these) for figure in (median, max)))
            for path, these in by_path.items()
        ],
    )
    print_table(
        f"One page stays open while {sizes.stay} others come and go and {EACH * sizes.stay:,} tasks are done",
        ("after visits", "server", "open page", "its nodes"),
        [
            (str(it.visits), f"{it.server / 1e6:.1f} MB", f"{it.page / 1e6:.2f} MB", f"{it.nodes:,.0f}")
            for it in weights
        ],
    )
    half, end = weights[len(weights) // 2], weights[-1]
    bars = [
        Bar("list with all tasks painted", median(it.readable for it in by_path["/"]) / 1e3, "s", at_most=1),
        Bar("server, growth in the second half of the stay", (end.server - half.server) / 1e6, "MB", at_most=5),
        Bar("open page, growth in the second half of the stay", (end.page - half.page) / 1e6, "MB", at_most=1),
    ]
    print_bars("Bars", bars)
    if sizes.json:
        figures = {"broker": on.name, "tasks": sizes.tasks, "opened": [asdict(it) for it in freed_llms]}
        write_json(sizes.json, "page", {**figures, "weights": [asdict(it) for it in weights]}, bars)


def _times(these: list[Opened]) -> tuple[list[float], list[float]]:
    return [it.painted for it in these], [it.readable for it in these]


if __name__ == "__main__":
    run_program(main)
