"""Create files and folders that only their owner may read: passwords, tasks and answers."""

import os
from contextlib import suppress
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents with mode 700. Existing folders keep their mode.

    Raises OSError. `Path.mkdir` with `parents` would create parents that all users may read.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises FileExistsError when a file has this name


def make_private(file: Path, *, create: bool) -> None:
    """Set an existing file of this user to mode 600; with `create`, create a missing file with that mode.

    Raises OSError.
    """
    try:
        if file.stat().st_uid == os.geteuid() and file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except FileNotFoundError:
        if create:
            with suppress(FileExistsError):  # another process created it in this moment, with the same mode
                os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def write_private(file: Path, text: str) -> None:
    """Replace a file in one step by a file of mode 600 with a text."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    draft.replace(file)
