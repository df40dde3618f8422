"""The programs of the demo: a private RabbitMQ node, the coordinator and the LLMs."""

import asyncio
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from broker.amqp.alarms import alarm_of_node
from broker.errors import BrokerBlocked, FluffleError
from broker.node.install import ensure_rabbitmq
from broker.node.private_node import PrivateNode
from broker.settings import PREFIX
from fluffle.local.demo_scenario import CAST
from fluffle.local.supervisor import Program, fluffle_command

STOP_TIMEOUT_SECONDS = 15.0  # before a program that does not end is killed
_MAX_LINES_KEPT, _MAX_CHARACTERS_SHOWN = 200, 2000  # of the output of a program


@contextmanager
def demo_node(say: Callable[[str], None]) -> Iterator[tuple[str, Path]]:
    """Run a private node in a temporary state folder during the block. Yields its URL and that folder.

    Raises BrokerBlocked when the node is low on disk or memory, NodeError when it does not start.
    """
    ensure_rabbitmq(say)
    state_dir = Path(tempfile.mkdtemp(prefix="fluffle-demo-"))
    node = PrivateNode(state_dir)
    try:
        say("Starting a private RabbitMQ node …")
        url = node.start()
        if alarm := alarm_of_node(url, node.folder):
            raise BrokerBlocked(alarm)
        yield url, state_dir
    finally:
        node.stop()
        shutil.rmtree(state_dir, ignore_errors=True)


@asynccontextmanager
async def demo_programs(url: str, state_dir: Path, llm_options: Sequence[str]) -> AsyncIterator[asyncio.Task[None]]:
    """Run the coordinator and the LLMs during the block.

    Yields a task that raises FluffleError, with the output of the program, as soon as one of the programs ends.
    """
    settings = {f"{PREFIX}AMQP_URL": url, f"{PREFIX}STATE_DIR": str(state_dir), f"{PREFIX}DATABASE_URL": ""}
    output: dict[str, deque[str]] = {}

    def keep(name: str, line: str) -> None:
        output.setdefault(name, deque(maxlen=_MAX_LINES_KEPT)).append(line)

    commands = {"coordinator": fluffle_command("coordinator")}
    for name, skills in CAST.items():
        levels = ",".join(f"{skill}={level}" for skill, level in skills.items())
        commands[name] = fluffle_command("worker", name, "--skills", levels, *llm_options)
    programs = {name: Program(name, command, settings, keep) for name, command in commands.items()}
    running = {asyncio.create_task(program.run_once()): program for program in programs.values()}

    async def until_one_ends() -> None:
        ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        task = ended.pop()
        name = running[task].name
        words = "\n".join(output.get(name, ())).strip()[-_MAX_CHARACTERS_SHOWN:]
        raise FluffleError(f"{name} ended unexpectedly (exit code {task.result()}):\n{words}")

    watching = asyncio.create_task(until_one_ends())
    try:
        yield watching
    finally:
        watching.cancel()
        for program in programs.values():
            program.stop()
        _, still_running = await asyncio.wait(running, timeout=STOP_TIMEOUT_SECONDS)
        for task in still_running:
            running[task].stop(signal.SIGKILL)
        await asyncio.gather(watching, *running, return_exceptions=True)
