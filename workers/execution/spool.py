"""Finished answers that RabbitMQ has not confirmed yet, on disk.

An answer costs money. So it is written down before it is sent, and forgotten when RabbitMQ has it. Every instance of
a worker has a file, one Result as JSON on each line, locked as long as its process lives; whoever starts under the
same name takes over the files of the dead.

What is written survives the end of the process from that moment on, and a power cut from the next fsync on. RabbitMQ
confirms within milliseconds, so only answers that wait longer are worth an fsync, and all of them share one.
"""

import asyncio
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from broker.errors import ConfigurationError, DecodeError
from broker.protocol.primitives import decode
from broker.protocol.worker_reports import Result
from broker.secure_files import make_private_folder

SYNC_AFTER = 0.05
"""Seconds that an answer may wait for its confirm before it is worth an fsync."""

REWRITE_OVER = 4 * 1024 * 1024
"""Bytes from which on a file that holds mostly confirmed answers is written anew."""

_log = logging.getLogger(__name__)


class Spool:
    """The answers of one instance. Used on one event loop; `aclose` it at the end."""

    def __init__(self, folder: Path, instance: str) -> None:
        """Take over what dead instances left in `folder`, and open a file of our own there.

        Raises ConfigurationError when the folder cannot be used.
        """
        self._folder = folder
        self._instance = instance
        self._last_ticket = 0
        self._waiting: dict[int, bytes] = {}  # by ticket
        self._file = -1
        self._files_opened = 0
        self._synced_ticket = 0
        self._sync_due: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Future[None] | None = None
        try:
            make_private_folder(folder)
            with _locked_folder(folder):
                left = _left_behind(folder)
                for body in [body for _, bodies in left for body in bodies]:
                    self._take(body)
                self._open_file()
                for path, _ in left:
                    path.unlink()
        except OSError as error:
            raise ConfigurationError(f"the spool folder {folder} cannot be used: {error.strerror}") from error

    def __len__(self) -> int:
        """How many answers are not confirmed."""
        return len(self._waiting)

    @property
    def waiting(self) -> dict[int, bytes]:
        """The answers that are not confirmed, by their tickets, oldest first."""
        return dict(self._waiting)

    def add(self, body: bytes) -> int:
        """Write an answer down, and return the ticket that `confirmed` wants.

        A disk that does not take it is told in the log: the answer is then in memory only.
        """
        ticket = self._take(body)
        try:
            _write(self._file, body + b"\n")
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)  # half a line would spoil the next one too
            _log.error("an answer could not be written to the spool %s: %s", self._path, error.strerror)
        else:
            self._size += len(body) + 1
            self._sync_later()
        return ticket

    def confirmed(self, ticket: int) -> None:
        """Forget an answer: RabbitMQ has it."""
        del self._waiting[ticket]
        self._tidy()

    async def aclose(self) -> None:
        """Close the file; delete it unless it holds answers that are not confirmed."""
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        if self._sync_due is not None:
            self._sync_due.cancel()
        if self._waiting:
            os.fsync(self._file)
        else:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1  # the number will soon be another file's

    def _take(self, body: bytes) -> int:
        self._last_ticket += 1
        self._waiting[self._last_ticket] = body
        return self._last_ticket

    # -- the file --------------------------------------------------------------------------------------------------

    def _open_file(self) -> None:
        """A new file with everything that waits. The folder is locked, so nobody takes it before we have locked it."""
        path = self._folder / f"{self._instance}-{self._files_opened + 1}.jsonl"
        data = b"".join(body + b"\n" for body in self._waiting.values())
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if data:
                _write(file, data)
                os.fsync(file)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        self._path, self._file, self._size = path, file, len(data)
        self._files_opened += 1
        self._synced_ticket = self._last_ticket

    def _tidy(self) -> None:
        """Get rid of confirmed answers in the file, when that is cheap or worth it."""
        if self._syncing is not None:
            return
        try:
            if not self._waiting:
                os.ftruncate(self._file, 0)
                self._size = 0
            elif self._size > REWRITE_OVER and self._size > 2 * sum(map(len, self._waiting.values())):
                old_path, old_file = self._path, self._file
                with _locked_folder(self._folder):
                    self._open_file()
                old_path.unlink()
                os.close(old_file)
        except OSError as error:
            _log.error("the spool %s could not be tidied: %s", self._path, error.strerror)

    # -- fsync -----------------------------------------------------------------------------------------------------

    def _sync_later(self) -> None:
        if self._sync_due is None and self._syncing is None:
            loop = asyncio.get_running_loop()
            self._sync_due = loop.call_later(SYNC_AFTER, self._sync_if_any_waits, self._last_ticket)

    def _sync_if_any_waits(self, up_to: int) -> None:
        """Sync when an answer that was there SYNC_AFTER ago, with a ticket up to `up_to`, still waits."""
        self._sync_due = None
        unsynced = [ticket for ticket in self._waiting if ticket > self._synced_ticket]
        if not unsynced:
            return
        if unsynced[0] > up_to:
            self._sync_later()
            return
        last = self._last_ticket
        self._syncing = asyncio.get_running_loop().run_in_executor(None, os.fsync, self._file)
        self._syncing.add_done_callback(lambda done: self._on_synced(last, done))

    def _on_synced(self, last: int, done: "asyncio.Future[None]") -> None:
        self._syncing = None
        if error := done.exception():
            _log.error("the spool %s could not be synced to disk: %s", self._path, error)
        self._synced_ticket = last
        self._tidy()
        if self._last_ticket > last:
            self._sync_later()


def _write(file: int, data: bytes) -> None:
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Nobody else begins or takes over a file in the folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _left_behind(folder: Path) -> list[tuple[Path, list[bytes]]]:
    """The files of dead instances, and the answers in each."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, "r+b") as file:  # some file systems lock only what may be written
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            found.append((path, list(_answers(path, file.read()))))
    return found


def _answers(path: Path, content: bytes) -> Iterator[bytes]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            decode(Result, line, limit=len(line))
        except DecodeError:
            _log.warning("%s: line %d is damaged and was skipped", path, number)
        else:
            yield line
