"""Metrics, health pages and machine-readable logs of coordinator and worker."""

import json
import re
import urllib.request

import pytest

from broker.protocol.topology import COORDINATOR, REJECTED
from tests.support.amqp import Amqp
from tests.support.http_probe import METRICS_ON, address, health, scrape, wait_for_readiness
from tests.support.processes import ROOT, Process, until
from tests.support.proxy import proxy_before
from tests.support.recording_llms import COST, TOKENS
from tests.support.site import Site

PAID = ("--handler", "tests.support.recording_llms:paid")


def test_coordinator_and_worker_count_the_same_work(site: Site, client: Amqp) -> None:
    coordinator = site.coordinator(env=METRICS_ON)
    worker = site.worker("ada", *PAID, "--slots", "4", env=METRICS_ON)
    answers = client.queue()
    for inputs in ("well", "well", "badly"):
        client.submit({"description": "Go", "inputs": inputs, "max_attempts": 1}, reply_to=answers)
    client.publish("fluffle.tasks", "submit", b"{")
    until(lambda: client.depth(answers) == 6, "three tasks are accepted and over")
    until(lambda: client.depth(REJECTED) == 1, "what is no JSON is among the rejected")

    told = scrape(coordinator)
    assert told["fluffle_leading"] == told["fluffle_connected"] == 1
    assert told["fluffle_tasks_submitted_total"] == 3
    assert told.of("fluffle_tasks_ended_total") == {"outcome=completed": 2, "outcome=failed": 1, "outcome=cancelled": 0}
    assert told["fluffle_messages_refused_total"] == 1
    assert told.of("fluffle_queue_messages") == {f"queue={COORDINATOR}": 0, f"queue={REJECTED}": 1}
    assert set(told.of("fluffle_tasks").values()) == {0}
    assert told["fluffle_wait_seconds_count"] == 3
    assert told["fluffle_batch_messages_sum"] >= 3 + 1 + 3 * 2 + 1, "submissions, a bad one, claims, results, a hello"
    assert told["fluffle_batch_messages_count"] == told["fluffle_commit_seconds_count"] > 0
    assert 0 < told["fluffle_commit_seconds_sum"] < 60
    assert told["fluffle_llm_slots{llm=ada}"] == 4
    assert told["fluffle_llm_instances{llm=ada}"] == 1
    assert told["fluffle_llm_in_hand{llm=ada}"] == told["fluffle_llm_parked{llm=ada}"] == 0

    of_the_worker = scrape(worker)
    assert of_the_worker["fluffle_worker_slots{llm=ada}"] == 4
    assert of_the_worker["fluffle_worker_in_hand{llm=ada}"] == of_the_worker["fluffle_worker_spooled{llm=ada}"] == 0
    for prefix, figures in (("fluffle", told), ("fluffle_worker", of_the_worker)):
        assert figures.of(f"{prefix}_attempts_total") == {"llm=ada,outcome=completed": 2, "llm=ada,outcome=failed": 1}
        assert figures.of(f"{prefix}_tokens_total") == {
            "direction=input,llm=ada": 2 * (TOKENS.input_tokens or 0),
            "direction=output,llm=ada": 2 * (TOKENS.output_tokens or 0),
        }
        assert figures[f"{prefix}_cost_usd_total{{llm=ada}}"] == pytest.approx(2 * COST)
        assert figures[f"{prefix}_attempt_seconds_count{{llm=ada}}"] == 3
        assert 0 < figures[f"{prefix}_attempt_seconds_sum{{llm=ada}}"] < 30


def test_the_docs_describe_exactly_the_existing_metrics(site: Site, client: Amqp) -> None:
    coordinator, worker = site.coordinator(env=METRICS_ON), site.worker("ada", *PAID, env=METRICS_ON)
    answers = client.queue()
    client.submit({"description": "Go", "inputs": "well"}, reply_to=answers)
    until(lambda: client.depth(answers) == 2, "a task is done")
    for name, process in (("coordinator", coordinator), ("worker", worker)):
        assert described(name) == {metric for metric in families(process) if metric.startswith("fluffle_")}


def described(program: str) -> set[str]:
    """Return the metrics in the table of the page about operations."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = page.partition(f"<!-- metrics: {program} -->")[2].partition("\n\n")[0]
    return set(re.findall(r"`(fluffle_\w+)`", "\n".join(line.split("|")[1] for line in table.strip().splitlines())))


def families(process: Process) -> set[str]:
    """Return the names of a program's metrics; of a histogram without the suffixes of its parts."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in scrape(process).names}


def test_pending_and_running_tasks_are_counted_with_their_age(site: Site, client: Amqp) -> None:
    coordinator = site.coordinator(env=METRICS_ON)
    gate = site.state / "gate"
    waits = ("--handler", "tests.support.recording_llms:wait_for_gate")
    worker = site.worker("ada", *waits, EFFECTS=str(site.state / "effects"), env=METRICS_ON)
    for number in range(3):
        client.submit({"id": f"t{number}", "description": "Go", "inputs": {"gate": str(gate)}})
    until(lambda: scrape(worker)["fluffle_worker_running{llm=ada}"] == 1, "one task runs")
    until(lambda: scrape(coordinator)["fluffle_tasks{status=in_progress}"] == 1, "the coordinator knows")
    told = scrape(coordinator)
    assert told["fluffle_tasks{status=pending}"] == 2
    assert told["fluffle_llm_in_hand{llm=ada}"] == 1
    until(lambda: scrape(coordinator)["fluffle_oldest_pending_seconds"] > 0.5, "the oldest one grows older")
    gate.touch()
    until(lambda: not any(scrape(coordinator).of("fluffle_tasks").values()), "everything is done")
    assert scrape(coordinator)["fluffle_oldest_pending_seconds"] == 0


def test_metrics_of_an_llm_end_when_it_leaves(site: Site, client: Amqp) -> None:
    coordinator = site.coordinator(env=METRICS_ON)
    site.worker("ada", *PAID)
    bela = site.worker("bela", *PAID)
    answers = client.queue()
    for llm in ("ada", "bela"):
        client.submit({"description": "Go", "inputs": "well", "assignee": llm}, reply_to=answers)
    until(lambda: client.depth(answers) == 4, "both have done one")
    assert {"ada", "bela"} == labelled(coordinator)
    bela.terminate()
    assert bela.wait() == 0
    until(lambda: labelled(coordinator) == {"ada"}, "nothing is labelled with who has left")
    assert scrape(coordinator)["fluffle_tasks_ended_total{outcome=completed}"] == 2, "what was done stays done"


def labelled(process: Process) -> set[str]:
    """Return the LLMs that labels name."""
    return {name for key in scrape(process) for name in re.findall(r"llm=([a-z]+)", key)}


def test_a_standby_reports_only_its_own_metrics(site: Site) -> None:
    leader = site.coordinator(env=METRICS_ON)
    standby = site.coordinator(until="standing by", env=METRICS_ON)
    assert scrape(leader)["fluffle_leading"] == 1
    told = scrape(standby)
    assert told["fluffle_leading"] == 0
    assert not told.of("fluffle_tasks")
    assert health(standby, "/readyz") == (200, {"ok": True, "problems": []})
    leader.terminate()
    until(lambda: scrape(standby)["fluffle_leading"] == 1, "it leads now")
    assert set(scrape(standby).of("fluffle_tasks").values()) == {0}


def test_programs_with_the_same_metrics_port_take_the_following_ports(site: Site) -> None:
    first = site.coordinator(env=METRICS_ON)
    port = int(address(first).rpartition(":")[2])
    worker = site.worker("ada", "--model", "demo", FLUFFLE_METRICS_PORT=str(port))
    assert port < int(address(worker).rpartition(":")[2]) <= port + 99
    assert scrape(first)["fluffle_leading"] == 1
    assert "fluffle_worker_slots{llm=ada}" in scrape(worker)


def test_metrics_are_served_on_loopback_unless_another_address_is_set(site: Site) -> None:
    assert address(site.coordinator(env=METRICS_ON)).startswith("http://127.0.0.1:")
    worker = site.worker("ada", "--model", "demo", FLUFFLE_METRICS_HOST="127.0.0.2", env=METRICS_ON)
    assert address(worker).startswith("http://127.0.0.2:")
    assert health(worker, "/healthz") == (200, {"ok": True, "problems": []})


def test_readiness_follows_the_connection_to_rabbitmq(site: Site) -> None:
    with proxy_before(site.url) as proxy:
        coordinator = site.coordinator(url=proxy.url, env=METRICS_ON)
        worker = site.worker("ada", "--model", "demo", url=proxy.url, env=METRICS_ON)
        for process in (coordinator, worker):
            assert health(process, "/readyz") == (200, {"ok": True, "problems": []})
        proxy.cut()
        for process in (coordinator, worker):
            wait_for_readiness(process, 503)
            _, told = health(process, "/readyz")
            assert told["problems"]
            assert all("no connection to RabbitMQ" in problem for problem in told["problems"])
            assert health(process, "/healthz")[0] == 200, "it is well, and waits"
            assert scrape(process)["fluffle_connected"] == 0
        proxy.open()
        for process in (coordinator, worker):
            wait_for_readiness(process, 200)
            assert scrape(process)["fluffle_connected"] == 1
            assert scrape(process)["fluffle_reconnects_total"] >= 2, "two connections of a link"


def test_a_draining_worker_is_healthy_and_not_ready(site: Site, client: Amqp) -> None:
    site.coordinator()
    gate = site.state / "gate"
    waits = ("--handler", "tests.support.recording_llms:wait_for_gate")
    worker = site.worker("ada", *waits, EFFECTS=str(site.state / "effects"), env=METRICS_ON)
    client.submit({"description": "Go", "inputs": {"gate": str(gate)}})
    until(lambda: scrape(worker)["fluffle_worker_running{llm=ada}"] == 1, "the task runs")
    worker.terminate()
    until(lambda: health(worker, "/readyz") == (503, {"ok": False, "problems": ["it is leaving"]}), "it tells so")
    assert health(worker, "/healthz")[0] == 200
    gate.touch()
    assert worker.wait() == 0


def test_a_coordinator_without_its_database_is_not_ready(site: Site) -> None:
    database, coordinator = site.sqlite, site.coordinator(env=METRICS_ON)
    hidden = site.state / "hidden"
    hidden.mkdir()
    for file in database.parent.glob(f"{database.name}*"):
        file.rename(hidden / file.name)
    database.mkdir()  # a folder is no database
    until(lambda: "the database does not answer" in health(coordinator, "/readyz")[1]["problems"], "it tells so")
    assert health(coordinator, "/healthz")[0] == 200
    coordinator.kill()


def test_an_unknown_page_lists_the_known_pages(site: Site) -> None:
    coordinator = site.coordinator(env=METRICS_ON)
    with pytest.raises(urllib.request.HTTPError) as refused:
        urllib.request.urlopen(f"{address(coordinator)}/", timeout=10)
    assert refused.value.code == 404
    assert refused.value.read() == b"There are /metrics, /healthz and /readyz.\n"


def test_every_log_line_outside_a_terminal_is_json(site: Site, client: Amqp) -> None:
    coordinator = site.coordinator(env=METRICS_ON)
    worker = site.worker("ada", *PAID)
    answers = client.queue()
    client.submit({"id": "logged", "description": "Go", "inputs": "badly", "max_attempts": 1}, reply_to=answers)
    until(lambda: client.depth(answers) == 2, "the task has failed")
    until(lambda: "task failed" in worker.output, "the worker has logged it")
    lines = [json.loads(line) for line in whole_lines(worker)]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    [started] = [line for line in lines if line["event"] == "task started"]
    assert (started["task"], started["attempt"], started["level"]) == ("logged", 1, "info")
    of_the_coordinator = [line for line in whole_lines(coordinator) if not line.startswith("coordinator: ")]
    assert all("event" in json.loads(line) for line in of_the_coordinator)
    assert of_the_coordinator


def whole_lines(process: Process) -> list[str]:
    """Return the complete lines of its output."""
    return [line for line in process.output.splitlines(keepends=True) if line.endswith("\n")]
