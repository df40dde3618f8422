"""Short `fluffle` commands, run as a user types them."""

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from select import select
from typing import Any

from tests.support.processes import COMMAND, ROOT


class Shell:
    """Runs `fluffle` commands as a user of that site."""

    def __init__(self, url: str, state: Path) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FLUFFLE_")}
        self.environment = {**inherited, "FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(state)}
        self.environment.pop("NO_COLOR", None)

    def __call__(self, *args: str, given: str | bytes = b"", code: int = 0) -> str:
        """Return the output of the command. Fails on another exit code, and on errors with exit code 0."""
        done = self.run(*args, given=given)
        assert done.returncode == code, f"{args}: {done.stdout.decode()}{done.stderr.decode()}"
        assert code != 0 or not done.stderr, done.stderr.decode()
        return done.stdout.decode()

    def error(self, *args: str, given: str | bytes = b"", code: int = 1) -> str:
        """Return the error of the command, which must be one line."""
        done = self.run(*args, given=given)
        assert done.returncode == code, f"{args}: {done.stdout.decode()}{done.stderr.decode()}"
        *usage, line = done.stderr.decode().splitlines()
        assert line.startswith("Error: ")
        assert all(code == 2 and (part == "" or part.startswith(("Usage: ", "Try "))) for part in usage)
        return line.removeprefix("Error: ")

    def json(self, *args: str) -> Any:
        """Return the output of the command with --json."""
        return json.loads(self(*args, "--json"))

    def run(self, *args: str, given: str | bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        given = given.encode() if isinstance(given, str) else given
        return subprocess.run(
            [COMMAND, *args], cwd=ROOT, env=self.environment, input=given, capture_output=True, timeout=60
        )

    def on_terminal(
        self, *args: str, seeing: Callable[[str], str | None] = lambda printed: None, **environment: str
    ) -> str:
        """Return the output of the command on a terminal of 100 columns.

        `seeing` receives the output so far and returns the keys to type.
        """
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.execve(
                COMMAND, [str(COMMAND), *args], {**self.environment, "COLUMNS": "100", "TERM": "xterm", **environment}
            )
        printed = b""
        while select([terminal], [], [], 60)[0]:
            try:
                printed += os.read(terminal, 65_536)
            except OSError:  # the command has ended
                break
            if keys := seeing(printed.decode(errors="replace")):
                os.write(terminal, keys.encode())
        os.waitpid(pid, 0)
        os.close(terminal)
        return printed.decode().replace("\r\n", "\n")
