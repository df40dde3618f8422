"""Check the structure of the source code: sizes, package docstrings, circles of imports, and the map in the docs.

Prints a line for each violation and ends with exit code 1 if there are any. `--write` fills the map in
docs/architecture.md from the docstrings of the packages first.
"""

import ast
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("broker", "workers", "coordinator", "fluffle")
SIZED = (*PACKAGES, "tests", "benchmarks", "scripts")
MOST_LINES = 400  # of a Python file
MOST_FILES = 12  # of a folder, without its __init__.py
DOCSTRING_LINES = range(3, 11)
MIGRATIONS = "coordinator/storage/migrations/versions"  # a folder of scripts, no package, and one more with each change
PUBLIC_FACE = "fluffle/__init__.py"
MAP_PAGE = "docs/architecture.md"
MAP = re.compile(r"(?<=<!-- map -->\n).*?(?=<!-- /map -->)", re.DOTALL)


def violations(root: Path) -> list[str]:
    """Return a line for each rule that a file or folder under `root` violates."""
    return [*long_files(root), *full_folders(root), *bad_packages(root), *circles(root), *outdated_map(root)]


def long_files(root: Path) -> Iterator[str]:
    """Find the Python files with more than 400 lines."""
    for file in _python_files(root, SIZED):
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{_name(root, file)}: {lines} lines; a file has at most {MOST_LINES}"


def full_folders(root: Path) -> Iterator[str]:
    """Find the folders with more than 12 files."""
    for folder in _folders(root):
        files = [it for it in folder.iterdir() if it.is_file() and it.name != "__init__.py"]
        if len(files) > MOST_FILES and _name(root, folder) != MIGRATIONS:
            most = f"a folder has at most {MOST_FILES}, not counting __init__.py"
            yield f"{_name(root, folder)}/: {len(files)} files; {most}"


def bad_packages(root: Path) -> Iterator[str]:
    """Find the packages whose `__init__.py` is missing or is anything but a docstring of 3 to 10 lines."""
    for folder in _folders(root):
        init = folder / "__init__.py"
        name = _name(root, init)
        if not any(folder.glob("*.py")) or name in (PUBLIC_FACE, f"{MIGRATIONS}/__init__.py"):
            continue
        if not init.exists():
            yield f"{name}: missing; a folder with Python files is a package"
            continue
        module = _parsed(init)
        docstring = ast.get_docstring(module)
        if docstring is None:
            yield f"{name}: no docstring; it says what is here, who may import it, and where to begin reading"
            continue
        lines = len(docstring.splitlines())
        if lines not in DOCSTRING_LINES:
            yield f"{name}: a docstring of {lines} lines; it must have 3 to 10"
        if len(module.body) > 1:
            yield f"{name}: code besides the docstring, in line {module.body[1].lineno}; move it to a module"


def circles(root: Path) -> Iterator[str]:
    """Find the circles of files that import each other: the shortest one through a file.

    Imports inside functions and under TYPE_CHECKING count.
    """
    imports = imported_files(root)
    left = sorted(imports)
    while left:
        circle = _shortest_circle(left[0], imports)
        if circle:
            yield f"{' -> '.join([*circle, circle[0]])}: files import each other in a circle"
        left = [file for file in left[1:] if file not in circle]


def imported_files(root: Path) -> dict[str, set[str]]:
    """Return for each Python file of the packages the files that its code imports."""
    files = {_module(root, file): _name(root, file) for file in _python_files(root, PACKAGES)}
    imports: dict[str, set[str]] = {}
    for module, file in files.items():
        targets = (files.get(name) for name in _imported_modules(root / file, module, files))
        imports[file] = {target for target in targets if target is not None} - {file}
    return imports


def outdated_map(root: Path) -> Iterator[str]:
    """Compare the map in the docs with the docstrings of the packages."""
    page = root / MAP_PAGE
    found = MAP.search(page.read_text(encoding="utf-8")) if page.exists() else None
    if found is None:
        yield f"{MAP_PAGE}: no map; it goes between the lines <!-- map --> and <!-- /map -->"
    elif found[0] != folder_map(root):
        yield f"{MAP_PAGE}: the map differs from the docstrings; run scripts/check_structure.py --write"


def folder_map(root: Path) -> str:
    """Return the map: a table with the first sentence of the docstring of each package."""
    rows = ["| folder | role |", "|---|---|"]
    for folder in _folders(root):
        init = folder / "__init__.py"
        docstring = ast.get_docstring(_parsed(init)) if init.exists() else None
        if docstring is not None:
            rows.append(f"| `{_name(root, folder)}/` | {_first_sentence(docstring)} |")
    return "\n".join(rows) + "\n"


def write_map(root: Path) -> None:
    """Replace the map in the docs by the one that the docstrings give."""
    page = root / MAP_PAGE
    text = page.read_text(encoding="utf-8")
    page.write_text(MAP.sub(lambda _: folder_map(root), text, count=1), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Print the violations and return the exit code."""
    if arguments not in ([], ["--write"]):
        print("Usage: check_structure.py [--write]")
        return 2
    if arguments:
        write_map(ROOT)
    found = violations(ROOT)
    print("\n".join(found) if found else "The structure is as it should be.")
    return 1 if found else 0


def _folders(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        if (root / package).is_dir():
            yield root / package
            yield from sorted(it for it in (root / package).rglob("*") if it.is_dir() and it.name != "__pycache__")


def _python_files(root: Path, folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((root / folder).rglob("*.py"))


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _module(root: Path, file: Path) -> str:
    return _name(root, file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _imported_modules(file: Path, module: str, known: Mapping[str, str]) -> Iterator[str]:
    """The names of the modules that a file imports; `from package import name` may mean a module or what is in one."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = _absolute(node, module if file.name == "__init__.py" else module.rpartition(".")[0])
            for alias in node.names:
                submodule = f"{package}.{alias.name}"
                yield submodule if submodule in known else package


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The package that `from ..x import y` means in a file of that package."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])


def _shortest_circle(start: str, imports: Mapping[str, set[str]]) -> list[str]:
    """The files on the shortest way from a file back to itself; none when there is no way."""
    before: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        file = waiting.popleft()
        for target in sorted(imports[file]):
            if target == start:
                way = [file]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return way[::-1]
            if target not in before:
                before[target] = file
                waiting.append(target)
    return []


def _first_sentence(docstring: str) -> str:
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", text)[0].replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
