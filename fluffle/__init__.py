"""Fluffle, a workforce of LLMs on RabbitMQ: the names that programs may use.

`Client` and `SyncClient` submit tasks, `Job`, `Answer`, `ModelError` and `Toolbox` are for Python functions that work
as LLMs, and all errors are subclasses of `FluffleError`. docs/python.md describes every name.

The stub `__init__.pyi` lists the names, each with its module. A module is imported when one of its names is first used.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

_MODULES = {
    name: module
    for module, name in re.findall(
        r"^from (\S+) import (\w+)", Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"), re.MULTILINE
    )
}
__all__ = tuple(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
