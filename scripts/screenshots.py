"""Take docs/screenshots: every page of the running program, in light, in dark and at the width of a phone.

A private RabbitMQ node, a coordinator and LLMs run in a temporary folder, which is removed at the end.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pika
from playwright.sync_api import Browser, Page, sync_playwright

from broker.node.private_node import PrivateNode
from fluffle import SyncClient
from workers.models.base import Answer, Job, ModelError, Usage
from workers.tools.toolbox import Toolbox

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs/screenshots"
TEXT = (
    "At 09:14 the cache was full. Requests failed until 09:31, because every answer was fetched again. The disks were "
    "fine all the time: their queues were short, and no error was logged. A larger cache is ordered. Until it comes, "
    "the oldest entries are dropped every hour. Nobody outside noticed more than slow pages."
)
SIZES = {"": (1280, 820), "-phone": (390, 844)}
_END_WITHIN = 5.0  # seconds
LLMS = {
    "ada": ["--model", "demo", "--skills", "summarise=1.0,terms=0.7", "--description", "Reads everything"],
    "ben": [
        "--model",
        "demo",
        "--skills",
        "edit=1.0,summarise=0.8",
        "--slots",
        "2",
        "--description",
        "Puts texts together",
    ],
    "cleo": ["--model", "demo", "--skills", "review=1.0", "--description", "Measures texts against their sources"],
    "dora": ["--handler", "scripts.screenshots:translate", "--skills", "translate=0.9,layout=0.4", "--slots", "3"],
}


async def translate(job: Job, tools: Toolbox) -> Answer:
    """The LLM dora asks, waits and fails according to the inputs of its task."""
    orders = job.inputs if isinstance(job.inputs, dict) else {}
    if "ask" in orders:
        return Answer(await tools.ask_person(orders["ask"], orders.get("choices", ())))
    await asyncio.sleep(orders.get("seconds", 0))
    if "fail" in orders:
        raise ModelError("rate_limit", orders["fail"], retryable=True)
    return Answer("Done.", Usage(input_tokens=812, output_tokens=164, cost_usd=0.0021))


@contextmanager
def running(environment: dict[str, str], *arguments: str, log: Path, until: str) -> Iterator[None]:
    """Run `fluffle ARGUMENTS` until the end of the block; wait until it has printed `until`."""
    with log.open("wb") as out:
        child = subprocess.Popen(  # noqa: S603 - the program under the camera
            [sys.executable, "-m", "fluffle", *arguments], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        while until not in log.read_text():
            if child.poll() is not None:
                raise SystemExit(f"{' '.join(arguments)} ended:\n{log.read_text()}")
            time.sleep(0.1)
        yield
    finally:
        child.terminate()
        try:
            child.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:  # it works for an hour, as the screenshots show
            child.kill()
            child.wait()


def give_work(client: SyncClient) -> dict[str, str]:
    """Submit tasks of every kind; return the ids of those with a separate page."""
    client.manage_budget("release", tokens=4_000, per="day")
    client.manage_budget("people", runs=200, per="hour", by="submitter")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))][:7]
    summaries = [
        client.submit(
            f"Summarise {page.relative_to(ROOT)} for new colleagues",
            skills=["summarise"],
            labels=["handbook"],
            inputs={"title": page.name, "text": page.read_text()},
        ).id
        for page in pages
    ]
    digest = client.submit(
        "Merge the summaries into one digest", skills=["edit"], labels=["handbook"], depends_on=summaries
    )
    review = client.submit(
        "Review the digest against its sources", skills=["review"], depends_on=[*summaries, digest.id]
    )
    client.wait(digest.id, review.id, timeout=120)
    for language in ("Dutch", "Polish", "Spanish"):
        client.submit(f"Translate the release notes into {language}", skills=["translate"], labels=["release"])
    failed = client.submit(
        "Translate the licence into Latin",
        skills=["translate"],
        labels=["release"],
        max_attempts=2,
        inputs={"fail": "The provider says: too many requests, try again in an hour"},
    )
    client.wait(failed.id, timeout=60)
    asking = client.submit(
        "Choose the picture for the title page",
        skills=["layout"],
        labels=["release"],
        inputs={
            "ask": "Three pictures fit. **Which one** do you want on the title page?",
            "choices": ["The burrow at dusk", "Two rabbits, one carrot", "The meadow"],
        },
    )
    client.submit(
        "Write the greeting",
        skills=["layout"],
        inputs={"ask": "Whom does the greeting address: customers, or colleagues?"},
    )
    client.submit("Lay out the brochure", skills=["layout"], priority=7, labels=["release"], inputs={"seconds": 3600})
    client.submit(
        "Proofread the brochure", skills=["proofread"], labels=["release"], due=datetime.now(UTC) + timedelta(seconds=2)
    )
    first = client.ask("ada", TEXT, timeout=60)
    client.ask("ada", "And what does it say about **disks**?", timeout=60, conversation_id=first.conversation_id)
    return {"task": digest.id, "failed": failed.id, "asking": asking.id}


def reject_something(url: str) -> None:
    """Publish messages that violate the protocol."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for message_id, body in (
        ("import-118", {"descripton": "Summarise", "priority": 12}),
        ("import-119", {"description": "Summarise", "due": "tomorrow", "skills": "python"}),
    ):
        channel.basic_publish(
            "fluffle.tasks", "submit", json.dumps(body).encode(), pika.BasicProperties(message_id=message_id)
        )
    connection.close()


def shoot(browser: Browser, base: str, login: str, pages: dict[str, str]) -> None:
    """Take all screenshots."""
    schemes: list[tuple[str, Literal["light", "dark"]]] = [("", "light"), ("-dark", "dark")]
    for suffix, scheme in schemes:
        for place, (width, height) in SIZES.items():
            if suffix and place:
                continue  # a dark page at the width of a phone adds nothing
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            take(page, f"{base}/login", f"login{suffix}{place}", ".login")
            page.goto(login)
            for name, path in pages.items():
                take(page, base + path, f"{name}{suffix}{place}", "#content > :nth-child(3)")
            context.close()


def take(page: Page, url: str, name: str, ready: str) -> None:
    """Take one screenshot when its content is present and stable."""
    page.goto(url)
    page.locator(ready).first.wait_for()
    page.wait_for_timeout(700)
    page.screenshot(path=TARGET / f"{name}.png", animations="disabled")
    print(f"docs/screenshots/{name}.png")


def main() -> None:
    """Take docs/screenshots again."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no Chromium: on Debian it comes with `apt-get install chromium`")
    TARGET.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="fluffle-screenshots-") as folder, ExitStack() as stack:
        state = Path(folder)
        node = PrivateNode(state)
        url = node.start()
        stack.callback(node.stop)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLUFFLE_")}
        environment = {**clean, "FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": folder, "FLUFFLE_USER": "ana"}

        def start(*arguments: str, until: str = "ready") -> Path:
            log = state / f"{'-'.join(arguments[:2])}.log"
            stack.enter_context(running(environment, *arguments, log=log, until=until))
            return log

        start("coordinator")
        for name, options in LLMS.items():
            start("worker", name, *options)
        web = start("web", "--port", "0", until="to look")
        with SyncClient(url, user="ana") as client:
            shown = give_work(client)
        reject_something(url)
        base, login, _ = re.findall(r"http://\S+", web.read_text())
        pages = {
            "tasks": "/",
            "task": f"/tasks/{shown['task']}",
            "task-failed": f"/tasks/{shown['failed']}",
            "new": "/new",
            "llms": "/llms",
            "chat": "/chat/ada",
            "questions": "/questions",
            "reports": "/reports",
            "reports-workload": "/reports?name=workload",
            "budgets": "/budgets",
            "rejected": "/rejected",
        }
        with SyncClient(url, user="ana") as client:
            conversation = next(iter(client.conversations(limit=1)))
        pages["chat"] += f"?conversation={conversation.id}"
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=options)
            shoot(browser, base.rstrip("/"), login, pages)
            browser.close()


if __name__ == "__main__":
    main()
