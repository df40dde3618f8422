"""RabbitMQ, the coordinator, the web page and the LLMs of a `fluffle.toml`, as supervised programs."""

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretStr

from broker.amqp.alarms import alarm_of_node
from broker.amqp.pika_connection import parameters
from broker.amqp.robust_connection import RobustConnection
from broker.errors import ConfigurationError, FluffleError, NodeError
from broker.node.private_node import PrivateNode
from broker.protocol.topology import SHARED
from broker.secure_files import make_private_folder
from broker.settings import PREFIX
from fluffle.client.client import Client
from fluffle.local.config import Configuration
from fluffle.local.operator_requests import send_configuration
from fluffle.local.supervisor import Program, fluffle_command

# A longer wait does not help: the LLMs may have workers elsewhere, or the coordinator may be gone.
_RECORD_TIMEOUT_SECONDS = 5.0
_NODE_CHECK_INTERVAL_SECONDS = 5.0


class Stack:
    """Runs all programs until SIGINT or SIGTERM. The first lets the LLMs finish, the second stops them at once."""

    def __init__(self, configuration: Configuration, say: Callable[[str, str], None]) -> None:
        """`say(name, line)` receives the output of the programs and lines about their restarts."""
        self._configuration = configuration
        self._say = say
        self._stop = asyncio.Event()
        self._signals = 0
        self._llms: list[Program] = []

    async def run(self) -> bool:
        """Run everything until a signal. Returns whether the LLMs were left to finish their tasks.

        Raises ConfigurationError or NodeError when the stack cannot start, for example because another one runs with
        the same state folder.
        """
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                asyncio.get_running_loop().add_signal_handler(signum, self._on_signal)
        state_dir = self._configuration.settings.state_dir
        with lock_state_dir(state_dir), TemporaryDirectory(prefix="fluffle-up-") as folder:
            async with self._broker() as url:
                await self._run_programs(url, Path(folder))
        return self._signals == 1

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say("up", "stopping; the LLMs finish their tasks, Ctrl-C again stops them at once")
            self._stop.set()
        else:
            # Not SIGTERM again: a signal is lost while the same one is still pending.
            for llm in self._llms:
                llm.stop(signal.SIGINT if self._signals == 2 else signal.SIGKILL)

    async def _run_programs(self, url: str, folder: Path) -> None:
        environment = self._settings(url)
        coordinator = Program("coordinator", fluffle_command("coordinator"), environment, self._say)
        for name, table in self._configuration.llms.items():
            options = table.options(self._instructions(name, folder), self._configuration.prices)
            command = fluffle_command("worker", name, *options)
            self._llms.append(
                Program(name, command, own_environment(environment, table.env), self._say, may_leave=True)
            )
        if not self._llms:
            self._say("up", "the file has no LLM: add one with a table such as [llm.atlas]")
        page = Program("web", fluffle_command("web"), environment, self._say)
        async with asyncio.TaskGroup() as programs:
            programs.create_task(coordinator.run())
            if self._has_page():
                programs.create_task(page.run())
            llms = [programs.create_task(llm.run()) for llm in self._llms]
            sending = programs.create_task(send_configuration(url, self._configuration, self._say))
            await self._stop.wait()
            sending.cancel()
            for llm in self._llms:
                llm.stop()
            await asyncio.gather(*llms)
            await self._wait_until_recorded(url)
            page.stop()
            coordinator.stop()

    async def _wait_until_recorded(self, url: str) -> None:
        """Wait until the coordinator has recorded that the LLMs have left, and how their last tasks ended."""
        with suppress(TimeoutError, FluffleError):
            async with asyncio.timeout(_RECORD_TIMEOUT_SECONDS), Client(url, name="fluffle up") as client:
                while await self._any_connected(client):  # noqa: ASYNC110 - no event to wait for
                    await asyncio.sleep(0.05)

    async def _any_connected(self, client: Client) -> bool:
        return any(llm.instances for llm in await client.llms() if llm.name in self._configuration.llms)

    def _has_page(self) -> bool:
        """Return whether to run the web page: it is enabled and installed."""
        wanted = self._configuration.settings.web
        if wanted and find_spec("nicegui") is None:
            self._say(
                "up",
                "the web page is not started: NiceGUI is not installed. Install it with `pip install 'fluffle[web]'`, "
                "or set `web = false` to hide this message",
            )
            return False
        return wanted

    def _settings(self, url: str) -> dict[str, str]:
        """Return the settings of the file as environment variables for the programs."""
        variables = {}
        for field in self._configuration.given:
            value = getattr(self._configuration.settings, field)
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            variables[f"{PREFIX}{field.upper()}"] = text
        return variables | {f"{PREFIX}AMQP_URL": url}

    def _instructions(self, name: str, folder: Path) -> Path | None:
        """Return the file with the instructions of an LLM."""
        table = self._configuration.llms[name]
        if table.instructions_file is not None:
            return self._configuration.folder / table.instructions_file
        if table.instructions is None:
            return None
        file = folder / f"{name}.txt"
        file.write_text(table.instructions, encoding="utf-8")
        return file

    # -- the broker ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[str]:
        """Yield the URL of RabbitMQ. Without one in the settings, run the private node during the block."""
        settings = self._configuration.settings
        if settings.amqp_url is not None:
            url = settings.amqp_url.get_secret_value()
            parameters(url, name="fluffle up")  # report an invalid URL once, not from each program
            yield url
            return
        node = PrivateNode(settings.state_dir)
        ran_before = node.status().state == "running"
        if not ran_before:
            self._say("up", "starting a private RabbitMQ node")
        url = await asyncio.to_thread(node.start)
        if alarm := await asyncio.to_thread(alarm_of_node, url, node.folder):
            self._say("up", alarm)
        async with RobustConnection(url, name="fluffle up") as link:
            await link.declare(SHARED)  # before the first program needs them
        keeping = asyncio.create_task(self._keep(node))
        try:
            yield url
        finally:
            keeping.cancel()
            if not ran_before:
                self._say("up", "stopping the private RabbitMQ node")
                await asyncio.to_thread(node.stop)

    async def _keep(self, node: PrivateNode) -> None:
        """Start the node again when it crashes."""
        while True:
            await asyncio.sleep(_NODE_CHECK_INTERVAL_SECONDS)
            if (await asyncio.to_thread(node.status)).state != "crashed":
                continue
            self._say("up", "the private RabbitMQ node crashed; starting it again")
            try:
                await asyncio.to_thread(node.start)
            except NodeError as error:
                self._say("up", str(error))


@contextmanager
def lock_state_dir(state_dir: Path) -> Iterator[None]:
    """Lock the state folder during the block. Raises ConfigurationError if another `fluffle up` uses it.

    Two of them would run each LLM twice, and the first to end would stop RabbitMQ for the other.
    """
    file = state_dir / "up.lock"
    try:
        make_private_folder(state_dir)
        with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigurationError(
                    f"another `fluffle up` uses the state folder {state_dir} (process {lock.read().strip()}): "
                    "stop it first, or set FLUFFLE_STATE_DIR to another folder"
                ) from error
            lock.truncate()
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield
    except OSError as error:
        raise ConfigurationError(f"cannot use {error.filename or file}: {error.strerror}") from error


def own_environment(shared: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of one LLM. With a file for its AMQP URL, it is a separate RabbitMQ user."""
    in_file = f"{PREFIX}AMQP_URL_FILE" in own
    return {**shared, **({f"{PREFIX}AMQP_URL": ""} if in_file else {}), **own}
