"""Files and folders that only their owner may read."""

from pathlib import Path

import pytest

from broker.secure_files import make_private_folder, write_private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_and_its_missing_parents_are_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    make_private_folder(tmp_path / "open/state/spool")
    assert mode(tmp_path / "open/state") == mode(tmp_path / "open/state/spool") == 0o700
    assert mode(tmp_path / "open") == 0o755, "what was there stays as it is"
    make_private_folder(tmp_path / "open/state/spool")


def test_a_file_with_the_name_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_private_folder(folder)


def test_a_private_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, "new")
    assert (file.read_text(), mode(file)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [file]
