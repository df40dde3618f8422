"""Plans: files of tasks that depend on each other, with templates, for work that is repeated.

[task.read]
for_each = "texts/*.md"
description = "Summarise the text"
inputs = { text = "{{ item.text }}" }

[task.merge]
depends_on = ["read"]
description = "Put the summaries together to a page about {{ topic }}"

`planned` turns a file into submissions, in a separate process: a plan may come from a stranger, and its templates can
use up all time and memory. In that process, `load` reads the file and `Plan.tasks` fills in the templates. The value of
a variable and the text of a file are never templates themselves.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from broker.errors import ConfigurationError, HelperFailed, HelperTimeout, did_you_mean
from broker.ids import uuid7
from broker.protocol.primitives import MAX_BODY_BYTES, problems
from broker.protocol.task_requests import Submission
from broker.untrusted.process_pool import ProcessPool

SUFFIXES = (".toml", ".yaml", ".yml")
MAX_NAME_LENGTH = 24  # characters, of a plan and of a task: the ids of tasks contain both
MAX_ITEMS = 1000  # the number of tasks on which one task may depend
MAX_VALUES = 100_000  # in a plan; an alias counts as all values of its target
CPU_SECONDS = 10.0  # that a plan may use

_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{MAX_NAME_LENGTH - 1}}}")
_ALONE = re.compile(r"\{\{((?:(?!\}\}|\{\{).)+)\}\}", re.DOTALL)
_OWN = ("for_each",)  # keys of a task that are not fields of a submission
_NOT_IN_PLANS = ("id", "parent_id", "conversation_id")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = None
    variables: dict[str, Any] = Field(default_factory=dict)
    task: dict[str, dict[str, Any]]


class _Unreadable(ConfigurationError):
    """A file that a template uses cannot be read."""


class PlannedTask(NamedTuple):
    """A task of a plan, ready to be submitted. `name` is its name in the plan, with a number for each item."""

    name: str
    submission: Submission
    depends_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan whose templates are not filled in yet."""

    path: Path
    name: str
    variables: Mapping[str, Any]
    templates: Mapping[str, Mapping[str, Any]]

    def tasks(
        self, run: str, given: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
    ) -> list[PlannedTask]:
        """Return the tasks, each after its dependencies; their ids begin with `run`.

        `given` holds values of variables, `defaults` holds fields for the tasks without them. Raises
        ConfigurationError that names the file, the task, and the mistake.
        """
        values = self._values(given or {})
        items = {name: self._items(name, values) for name in self.templates}
        names = {name: _numbered(name, found) for name, found in items.items()}
        planned = []
        for name in self._in_order():
            above = tuple(one for other in self.templates[name].get("depends_on", ()) for one in names[other])
            for one, item in zip(names[name], items[name] or [None], strict=True):
                filled = self._fill(name, {**values, **({} if item is None else {"item": item})})
                fields = {**(defaults or {}), **filled, "id": f"{run}-{one}", "conversation_id": run}
                fields["depends_on"] = [f"{run}-{other}" for other in above]
                planned.append(PlannedTask(one, self._submission(one, fields), above))
        return planned

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        used = _variables_in(self) - {"item", "read"}
        known = sorted(used | set(self.variables))
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
                raise ConfigurationError(f"{self.path}: the plan has no variable {name}{hint}")
        return {"read": self._read, **self.variables, **given}

    def _items(self, name: str, values: Mapping[str, Any]) -> list[Any]:
        """Return the items of `for_each`, one for each task; nothing for a single task."""
        over = self.templates[name].get("for_each")
        if over is None:
            return []
        found = over = self._rendered(name, "for_each", over, values)
        if isinstance(found, str):
            found = [_as_item(path) for path in self._files(name, found)]
        if not isinstance(found, list) or not found:
            what = "no file matches" if isinstance(found, list) else "must be a pattern of file names or a list, got"
            raise self._wrong(name, f"for_each: {what} {over!r}")
        if len(found) > MAX_ITEMS:
            raise self._wrong(name, f"for_each: {len(found):,} items; the limit is {MAX_ITEMS:,}")
        return found

    def _read(self, name: str) -> str:
        """Return the text of a file, for templates. The name is relative to the folder of the plan."""
        return _as_item(self.path.parent / name)["text"]

    def _files(self, name: str, pattern: str) -> list[Path]:
        """Return the files that match a pattern, relative to the folder of the plan."""
        try:
            return sorted(path for path in self.path.parent.glob(pattern) if path.is_file())
        except (NotImplementedError, ValueError, IndexError) as error:
            raise self._wrong(name, f"for_each: {pattern!r}: {error}") from error

    def _in_order(self) -> list[str]:
        above: dict[str, list[str]] = {}
        for name, template in self.templates.items():
            above[name] = template.get("depends_on", [])
            if not isinstance(above[name], list):
                raise self._wrong(name, "depends_on: must be a list of names of tasks of the plan")
            for other in above[name]:
                if other not in self.templates:
                    hint = did_you_mean(str(other), self.templates)
                    raise self._wrong(name, f"depends_on: the plan has no task {other}{hint}")
        try:
            return list(TopologicalSorter(above).static_order())
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise ConfigurationError(f"{self.path}: the tasks depend on each other in a cycle: {circle}") from error

    def _fill(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        template = self.templates[name]
        own = (*_OWN, "depends_on")
        return {key: self._rendered(name, key, value, values) for key, value in template.items() if key not in own}

    def _rendered(self, name: str, where: str, value: Any, values: Mapping[str, Any]) -> Any:
        """Return a value with its templates filled in, at any depth."""
        match value:
            case str():
                try:
                    return _filled(value, values)
                except _Unreadable as error:
                    raise self._wrong(name, f"{where}: {error}") from error
                except Exception as error:  # filters raise what they like
                    raise self._wrong(name, f"{where}: {_hinted(error, values)}") from error
            case list():
                return [self._rendered(name, f"{where}.{place}", item, values) for place, item in enumerate(value)]
            case dict():
                return {key: self._rendered(name, f"{where}.{key}", item, values) for key, item in value.items()}
            case _:
                return value

    def _submission(self, name: str, fields: dict[str, Any]) -> Submission:
        try:
            return Submission.model_validate_json(to_json(fields))
        except ValidationError as error:
            raise self._wrong(name, "; ".join(map(str, problems(error)))) from error
        except (PydanticSerializationError, ValueError) as error:
            raise self._wrong(name, f"a value cannot be written as JSON: {_line(error)}") from error

    def _wrong(self, name: str, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self.path}: task {name}: {reason}")


def load(path: Path) -> Plan:
    """Read a plan from a TOML or YAML file. Raises ConfigurationError that names the mistake."""
    try:
        text = _text_of(path)
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
        _must_be_small(path, content)
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no file {path}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except _Unreadable as error:
        raise ConfigurationError(str(error)) from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: the values are nested too deeply") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path}: {_line(error)}") from error
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: " + "; ".join(map(str, problems(error)))) from error
    if not file.task:
        raise ConfigurationError(f"{path}: the plan has no task")
    name = file.name or re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-")[:MAX_NAME_LENGTH] or "plan"
    for found in (name, *file.task):
        if not _NAME.fullmatch(found):
            raise ConfigurationError(
                f"{path}: the name {found!r} must be 1-{MAX_NAME_LENGTH} characters: a-z, 0-9 or '-'"
            )
    plan = Plan(path, name, file.variables, file.task)
    for task, template in plan.templates.items():
        _must_be_known(plan, task, template)
    return plan


async def planned(
    path: Path, run: str | None, given: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
) -> tuple[str, list[PlannedTask]]:
    """Return the run, a new one by default, and the tasks of a plan (see Plan.tasks).

    Raises ConfigurationError that names the mistake, also when the plan uses too much time or memory.
    """
    try:
        values = [to_jsonable_python(values or {}) for values in (given, defaults)]
    except PydanticSerializationError as error:
        raise ConfigurationError(f"{path}: a variable cannot be written as JSON: {_line(error)}") from error
    helpers = ProcessPool(1, folder=os.getcwd())
    try:
        answer = await helpers.call("fluffle.plans.plan:fill_in", str(path), run, *values, seconds=CPU_SECONDS)
    except HelperTimeout as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except HelperFailed as error:
        reason = "the plan needs too much memory" if "MemoryError" in str(error) else str(error)
        raise ConfigurationError(f"{path}: {reason}") from error
    finally:
        helpers.close()
    if "error" in answer:
        raise ConfigurationError(answer["error"])
    tasks = answer["tasks"]
    return answer["run"], [
        PlannedTask(name, Submission.model_validate_json(body), tuple(above)) for name, body, above in tasks
    ]


def fill_in(path: str, run: str | None, given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Do the work of `planned`, in the separate process."""
    try:
        plan = load(Path(path))
        run = run or new_run(plan)
        tasks = plan.tasks(run, given, defaults)
    except ConfigurationError as error:
        return {"error": str(error)}
    return {
        "run": run,
        "tasks": [(it.name, it.submission.model_dump_json(exclude_unset=True), it.depends_on) for it in tasks],
    }


def new_run(plan: Plan) -> str:
    """Return the beginning of the ids of a new run."""
    return f"{plan.name}-{uuid7()[-8:]}"


def _must_be_known(plan: Plan, task: str, template: Mapping[str, Any]) -> None:
    known = [*(name for name in Submission.model_fields if name not in _NOT_IN_PLANS), *_OWN]
    for key in template:
        if key not in known:
            raise ConfigurationError(f"{plan.path}: task {task}: unknown field {key}{did_you_mean(key, known)}")
        for text in _texts(template[key]):
            try:
                _variables_of(text)
            except (TemplateError, RecursionError) as error:
                raise ConfigurationError(f"{plan.path}: task {task}: {key}: {_line(error)}") from error


def _hinted(error: Exception, names: Iterable[str]) -> str:
    """Return the mistake in a template; for an unknown variable, with the name that may be meant."""
    if isinstance(error, MemoryError):
        return "the template needs too much memory"
    reason = (error.message if isinstance(error, TemplateError) else None) or _line(error)
    undefined = re.fullmatch(r"'(\w+)' is undefined", reason)
    return f"{reason}{did_you_mean(undefined[1], names) if undefined else ''}"


def _as_item(path: Path) -> dict[str, str]:
    """Return the fields of a file for templates. Raises _Unreadable."""
    try:
        return {"name": path.name, "stem": path.stem, "path": str(path), "text": _text_of(path)}
    except UnicodeDecodeError as error:
        raise _Unreadable(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise _Unreadable(f"cannot read {path}: {error.strerror}") from error


def _text_of(path: Path) -> str:
    """Return the text of a file. Raises OSError, UnicodeDecodeError, and _Unreadable for a folder or a large file."""
    if path.exists() and not path.is_file():
        raise _Unreadable(f"{path} is not a file")
    with path.open("rb") as file:
        text = file.read(MAX_BODY_BYTES + 1)
    if len(text) > MAX_BODY_BYTES:
        raise _Unreadable(f"{path} is larger than {MAX_BODY_BYTES:,} bytes")
    return text.decode("utf-8-sig")


def _must_be_small(path: Path, content: Any) -> None:
    """Raise ConfigurationError for a plan with too many values: a small file with aliases of YAML can have them."""
    waiting, left = [content], MAX_VALUES
    while waiting:
        left -= 1
        if left < 0:
            raise ConfigurationError(f"{path}: the plan has more than {MAX_VALUES:,} values")
        match waiting.pop():
            case dict() as inner:
                waiting += inner.values()
            case list() as inner:
                waiting += inner


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _numbered(name: str, items: Sequence[Any]) -> list[str]:
    return [f"{name}-{number}" for number in range(1, len(items) + 1)] or [name]


# -- templates -------------------------------------------------------------------------------------------------------

# A plan may come from a stranger: its templates have access to their variables, and to nothing of Python.
_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


def _filled(template: str, values: Mapping[str, Any]) -> Any:
    """Return the text of a template, or the value itself, such as a list, when the template is only `{{ … }}`."""
    if alone := _ALONE.fullmatch(template.strip()):
        value = _environment.compile_expression(alone[1].strip(), undefined_to_none=False)(**values)
        if isinstance(value, StrictUndefined):
            str(value)  # raises, and names the variable
        return value
    return _environment.from_string(template).render(**values)


def _variables_in(plan: Plan) -> set[str]:
    """Return the variables that the templates of a plan use."""
    found: set[str] = set()
    for text in _texts(list(plan.templates.values())):
        found |= _variables_of(text)
    return found


def _variables_of(text: str) -> set[str]:
    """Return the variables that a template uses. Raises TemplateError for a wrong template or an unknown filter."""
    return meta.find_undeclared_variables(_environment.parse(text))


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)
