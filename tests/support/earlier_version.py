"""The version of Fluffle before the newest database schema, from the history of this repository."""

import io
import subprocess
import tarfile
from pathlib import Path

from coordinator.storage.upgrade import HEAD
from tests.support.processes import ROOT

ROOMS = ("broker", "coordinator", "fluffle", "workers")


def version_before(folder: Path) -> Path:
    """Extract its modules into that folder. Raises FileNotFoundError without a history, as in an archive."""
    newest = f":(glob)coordinator/**/migrations/versions/{HEAD}_*.py"  # wherever the file was when a commit added it
    try:
        looking = ("log", "--first-parent", "-m", "--diff-filter=A", "--format=%H")  # a merge may have added it
        added = _git(*looking, "--", newest).decode().split()
        commit = f"{added[-1]}^" if added else "HEAD"  # an uncommitted one is newer than HEAD
        modules = _git("archive", commit, *ROOMS)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise FileNotFoundError("the version before is not in the history of this checkout") from error
    with tarfile.open(fileobj=io.BytesIO(modules)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _git(*args: str) -> bytes:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, check=True).stdout
