"""Files and folders that only their owner may read: passwords, and what tasks and answers say."""

import os
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 700, and those above it that are missing. One that is there stays as it is.

    Raises OSError. `Path.mkdir` with `parents` would leave those above open to everybody.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises what is to be said when a file is in its place


def write_private(file: Path, text: str) -> None:
    """Replace `file` in one step by one of mode 600 with this text."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    draft.replace(file)
