"""The time that Fluffle adds to a chat: a person asks the demo LLM and waits for its answer, without other load.

    .venv/bin/python benchmarks/chat.py --conversations 40 --turns 10

One coordinator with SQLite, one worker and one client, on a private RabbitMQ. This process computes the same answers
once more without Fluffle; the rest of the round trip is what Fluffle adds.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.processes import PROGRAMS, BenchmarkFailed, Processes, run_program
from benchmarks.support.report import Bar, console, print_bars, print_table, write_json
from broker.protocol.chat import Message, new_message
from fluffle import Client
from workers.models.base import Job
from workers.models.demo.llm import DemoLLM

FLUFFLE = str(PROGRAMS / "fluffle")
READY = "coordinator: ready, leading"
PERSON, LLM = "ana", "demo"
PATIENCE = 30.0  # seconds
MOST = 15.0  # milliseconds that Fluffle may add

OPENING = (
    "RabbitMQ keeps messages in queues. Quorum queues are replicated with Raft. Consumers acknowledge what they have "
    "taken. Publishers wait for confirms. What is not acknowledged is delivered again. Rabbits dig warrens."
)
QUESTION = "What do consumers do with what they have taken?"


@dataclass(frozen=True, slots=True)
class Exchange:
    """The duration of a question and its answer in milliseconds, in total and of the LLM alone. `turn` begins at 1."""

    turn: int
    total: float
    llm: float

    @property
    def added(self) -> float:
        """Return the part that Fluffle took."""
        return self.total - self.llm


async def chat(url: str, sizes: argparse.Namespace) -> list[Exchange]:
    """Run all exchanges in sequence. Raises BenchmarkFailed when an answer is late or unexpected."""
    exchanges = []
    async with Client(url, user=PERSON) as client:
        for number in range(sizes.warm_up + sizes.conversations):
            talk = await _conversation(client, sizes.turns)
            if number >= sizes.warm_up:
                exchanges += talk
    return exchanges


async def _conversation(client: Client, turns: int) -> list[Exchange]:
    exchanges: list[Exchange] = []
    said: list[Message] = []
    for turn in range(1, turns + 1):
        text = QUESTION if said else OPENING
        conversation_id = said[0].conversation_id if said else None
        start = time.perf_counter()
        try:
            answer = await client.ask(LLM, text, PATIENCE, conversation_id=conversation_id)
        except TimeoutError as error:
            raise BenchmarkFailed(f"turn {turn}: {error}") from error
        total = time.perf_counter() - start
        question = new_message(
            client.address, answer.sender, text, id=answer.in_reply_to, conversation_id=answer.conversation_id
        )
        expected, own = await _alone(question, said)
        if answer.content != expected:
            raise BenchmarkFailed(f"turn {turn}: the answer is {answer.content!r}, and not {expected!r}")
        said += [question, answer]
        exchanges.append(Exchange(turn, 1e3 * total, 1e3 * own))
    return exchanges


async def _alone(question: Message, said: Sequence[Message]) -> tuple[object, float]:
    """Return the answer of the LLM without Fluffle, and how many seconds it took."""
    job = Job(question.id, 1, question.content, message=question, conversation=tuple(said))
    start = time.perf_counter()
    answer = await DemoLLM().run(job, lambda text: None)
    return answer.result, time.perf_counter() - start


def measure(url: str, folder: Path, sizes: argparse.Namespace) -> list[Exchange]:
    """Run all exchanges with separate processes. Raises BenchmarkFailed."""
    environment = {"FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(folder)}
    with Processes(folder, environment) as processes:
        processes.start_until((FLUFFLE, "coordinator"), READY, timeout=PATIENCE)
        processes.start_until((FLUFFLE, "worker", LLM, "--model", "demo"), f"{LLM}: ready", timeout=PATIENCE)
        return asyncio.run(chat(url, sizes))


def arguments() -> argparse.Namespace:
    """Return the sizes given on the command line."""
    parser = command(__doc__)
    parser.add_argument("--conversations", type=int, default=40, help="one after the other (40)")
    parser.add_argument("--turns", type=int, default=10, help="questions in each conversation, 1 to 20 (10)")
    parser.add_argument("--warm-up", type=int, default=5, help="conversations before the measurement (5)")
    sizes = parser.parse_args()
    if not 1 <= sizes.turns <= 20:  # beyond, the LLM gets no more than the newest messages
        parser.error("--turns: 1 to 20")
    if sizes.conversations * sizes.turns < 2:
        parser.error("--conversations: two questions make the least from which percentiles can be told")
    return sizes


def rows(exchanges: Sequence[Exchange]) -> list[tuple[str, ...]]:
    """Return the rows of the table: first questions, which need no history, then the others, then all."""
    kinds = {
        "first question": [it for it in exchanges if it.turn == 1],
        "further questions": [it for it in exchanges if it.turn > 1],
        "all": exchanges,
    }
    return [_row(name, these) for name, these in kinds.items() if len(these) > 1]


def _row(name: str, these: Sequence[Exchange]) -> tuple[str, ...]:
    added = quantiles([it.added for it in these], n=100, method="inclusive")
    figures = (median(it.total for it in these), median(it.llm for it in these), added[49], added[94])
    return (name, f"{len(these):,}", *(f"{figure:.2f}" for figure in figures))


def main() -> None:
    """Measure, print the tables, write the file."""
    sizes = arguments()
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on:
        exchanges = measure(on.url, Path(folder), sizes)
    columns = ("ms", "number", "round trip p50", "of it the LLM", "added p50", "added p95")
    print_table(f"A person asks the demo LLM, on {on.name}", columns, rows(exchanges))
    console.print("added: the round trip without what the LLM takes for its answer alone.\n")
    bars = [Bar("added to a chat round trip, p50", median(it.added for it in exchanges), "ms", at_most=MOST)]
    print_bars("Bars", bars)
    if sizes.json:
        figures = {"broker": on.name, "turns": sizes.turns, "exchanges": [asdict(it) for it in exchanges]}
        write_json(sizes.json, "chat", figures, bars)


if __name__ == "__main__":
    run_program(main)
