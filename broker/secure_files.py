"""Files and folders that only their owner may read: passwords, and what tasks and answers say."""

import os
from contextlib import suppress
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 700, and those above it that are missing. One that is there stays as it is.

    Raises OSError. `Path.mkdir` with `parents` would leave those above open to everybody.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises what is to be said when a file is in its place


def make_private(file: Path, *, create: bool) -> None:
    """Give a file that is there mode 600, if it is ours; `create` an empty one of that mode otherwise.

    Raises OSError.
    """
    try:
        if file.stat().st_uid == os.geteuid() and file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except FileNotFoundError:
        if create:
            with suppress(FileExistsError):  # by another process in this moment, with the same mode
                os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def write_private(file: Path, text: str) -> None:
    """Replace `file` in one step by one of mode 600 with this text."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    draft.replace(file)
