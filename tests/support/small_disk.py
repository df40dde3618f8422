"""A small separate disk that can be filled: a file system in memory, which only root can create.

`why_not` returns why there is none.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

SIZE = 24 * 1024 * 1024  # bytes
_CHUNK = bytes(64 * 1024)


@cache
def why_not() -> str:
    """Return why such a disk cannot be created here, or an empty text."""
    try:
        with small_disk():
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no disk can be made here: {error}"


@contextmanager
def small_disk() -> Iterator[Path]:
    """Yield its mount point, which all users can enter. Raises OSError and CalledProcessError."""
    folder = Path(tempfile.mkdtemp(prefix="fluffle-disk-"))
    folder.chmod(0o755)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
        try:
            yield folder
        finally:
            _run("umount", "--lazy", str(folder))
    finally:
        folder.rmdir()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill the disk during the block."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(_CHUNK):
            pass
    try:
        yield
    finally:
        filler.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
