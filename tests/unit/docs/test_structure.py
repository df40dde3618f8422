"""Each rule about the structure of the source code fails where a file breaks it."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import check_structure
from tests.support.processes import ROOT

DOCSTRING = '"""Messages of the protocol. They are frozen.\n\nAny folder may import them.\n"""\n'


class Tree:
    """A made-up repository."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str = "") -> None:
        """Write a file, and the docstrings of the packages above it."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(self.root).parents:
            init = self.root / folder / "__init__.py"
            if folder.parts and folder.parts[0] in check_structure.PACKAGES and not init.exists():
                init.write_text(DOCSTRING)
        file.write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A repository without violations."""
    tree = Tree(tmp_path)
    tree.write("broker/errors.py", '"""Errors."""\n')
    tree.write("docs/architecture.md", "# Map\n<!-- map -->\n<!-- /map -->\nThe end.\n")
    check_structure.write_map(tmp_path)
    return tree


def test_a_tree_that_follows_the_rules_has_no_violations(tree: Tree) -> None:
    tree.write("broker/long.py", "x = 1\n" * 400)
    assert check_structure.violations(tree.root) == []


@pytest.mark.parametrize("folder", ["broker", "workers", "coordinator", "fluffle", "tests", "benchmarks", "scripts"])
def test_a_file_of_401_lines_is_too_long(tree: Tree, folder: str) -> None:
    tree.write(f"{folder}/deep/long.py", "x = 1\n" * 401)
    assert list(check_structure.long_files(tree.root)) == [f"{folder}/deep/long.py: 401 lines; a file has at most 400"]


@pytest.mark.parametrize("folder", ["broker", "workers", "coordinator", "fluffle"])
def test_a_folder_of_13_files_is_too_full(tree: Tree, folder: str) -> None:
    for number in range(12):
        tree.write(f"{folder}/amqp/part_{number}.py")
    assert list(check_structure.full_folders(tree.root)) == []
    tree.write(f"{folder}/amqp/page.css")
    assert list(check_structure.full_folders(tree.root)) == [
        f"{folder}/amqp/: 13 files; a folder has at most 12, not counting __init__.py"
    ]


def test_migrations_may_exceed_the_limit_and_need_no_package(tree: Tree) -> None:
    for number in range(20):
        tree.write(f"coordinator/storage/migrations/versions/{number:04}.py")
    (tree.root / "coordinator/storage/migrations/versions/__init__.py").unlink()
    assert list(check_structure.full_folders(tree.root)) == []
    assert list(check_structure.bad_packages(tree.root)) == []


def test_a_folder_without_an_init_is_no_package(tree: Tree) -> None:
    tree.write("workers/models/llm.py")
    (tree.root / "workers/models/__init__.py").unlink()
    assert list(check_structure.bad_packages(tree.root)) == [
        "workers/models/__init__.py: missing; a folder with Python files is a package"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no docstring; it says what is here, who may import it, and where to begin reading"),
        ('"""One line."""\n', "a docstring of 1 lines; it must have 3 to 10"),
        ('"""One.\n\nTwo.' + "\nMore." * 8 + '\n"""\n', "a docstring of 11 lines; it must have 3 to 10"),
        (f"{DOCSTRING}\nfrom broker import errors\n", "code besides the docstring, in line 6; move it to a module"),
    ],
)
def test_a_package_holds_a_docstring_of_3_to_10_lines_and_nothing_else(tree: Tree, text: str, problem: str) -> None:
    tree.write("coordinator/__init__.py", text)
    tree.write("fluffle/__init__.py", text)
    assert list(check_structure.bad_packages(tree.root)) == [f"coordinator/__init__.py: {problem}"]


@pytest.mark.parametrize(
    "text",
    [
        "from broker.amqp import session\n",
        "from broker.amqp.session import Session\n",
        "import broker.amqp.session\n",
        "from . import session\n",
        "from ..amqp.session import Session\n",
        "def connect():\n    from broker.amqp.session import Session\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from broker.amqp.session import Session\n",
    ],
)
def test_files_that_import_each_other_are_a_circle_however_they_do_it(tree: Tree, text: str) -> None:
    tree.write("broker/amqp/session.py", "from broker.amqp import channel\n")
    tree.write("broker/amqp/channel.py")
    assert list(check_structure.circles(tree.root)) == []
    tree.write("broker/amqp/channel.py", text)
    circle = "broker/amqp/channel.py -> broker/amqp/session.py -> broker/amqp/channel.py"
    assert list(check_structure.circles(tree.root)) == [f"{circle}: files import each other in a circle"]


def test_a_circle_of_three_files_in_three_packages_is_found(tree: Tree) -> None:
    tree.write("broker/a.py", "import workers.b\n")
    tree.write("workers/b.py", "from fluffle.c import X\n")
    tree.write("fluffle/c.py", "from broker.a import Y\n")
    tree.write("fluffle/d.py", "from broker.a import Y\n")
    assert list(check_structure.circles(tree.root)) == [
        "broker/a.py -> workers/b.py -> fluffle/c.py -> broker/a.py: files import each other in a circle"
    ]


def test_the_map_is_a_row_for_each_folder_with_the_first_sentence_of_its_docstring(tree: Tree) -> None:
    tree.write("broker/amqp/session.py")
    tree.write("broker/amqp/__init__.py", '"""The connection: a | b, and\nall else. More.\n\nThe end.\n"""\n')
    assert list(check_structure.outdated_map(tree.root)) == [
        "docs/architecture.md: the map differs from the docstrings; run scripts/check_structure.py --write"
    ]
    check_structure.write_map(tree.root)
    assert (tree.root / "docs/architecture.md").read_text() == (
        "# Map\n<!-- map -->\n"
        "| folder | role |\n|---|---|\n"
        "| `broker/` | Messages of the protocol. |\n"
        "| `broker/amqp/` | The connection: a \\| b, and all else. |\n"
        "<!-- /map -->\nThe end.\n"
    )
    assert check_structure.violations(tree.root) == []


def test_a_page_without_a_map_is_named(tree: Tree) -> None:
    tree.write("docs/architecture.md", "# Map\n")
    assert list(check_structure.outdated_map(tree.root)) == [
        "docs/architecture.md: no map; it goes between the lines <!-- map --> and <!-- /map -->"
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("X = 1\n", "D100"),
        ('"""Broker."""\n\n\nclass Session:\n    X = 1\n', "D101"),
        (
            '"""Broker."""\n\n\nclass Session:\n    """A session."""\n\n    def close(self) -> None:\n        pass\n',
            "D102",
        ),
        ('"""Broker."""\n\n\ndef connect() -> None:\n    pass\n', "D103"),
    ],
)
@pytest.mark.parametrize("package", check_structure.PACKAGES)
def test_a_public_name_without_a_docstring_fails_the_linter(package: str, text: str, rule: str) -> None:
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "check", "--output-format", "concise", "--stdin-filename", f"{package}/made_up.py", "-"]
    done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f": {rule} " in done.stdout
