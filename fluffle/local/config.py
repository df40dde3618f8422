"""The file `fluffle.toml`: settings, and the LLMs that `fluffle up` runs."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.errors import ConfigurationError, Problem, did_you_mean
from broker.protocol.primitives import Level, Name, Seconds, Tag, problems
from broker.protocol.task_requests import TOOLS, Tool
from broker.protocol.worker_reports import skills_in_text
from broker.settings import Settings, load_settings

FILE = "fluffle.toml"


def _in_a_word(tools: Any) -> Any:
    """`all` and `none` as lists."""
    return {"all": list(TOOLS), "none": []}.get(tools, tools) if isinstance(tools, str) else tools


class LLMTable(BaseModel):
    """A table `[llm.NAME]`. Exactly one of `model`, `exec` and `handler` says what the LLM is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = Field(None, description="a model such as `ollama:llama3.2`, or `demo`, the offline one")
    base_url: str | None = Field(None, description="the server of the model, where it is not the provider's own")
    exec: str | None = Field(None, description="a command: prompt on its input, answer on its output")
    handler: str | None = Field(None, description="a Python function, as `module:function`")
    command_env: list[str] | None = Field(
        None, description="names of the environment variables that `exec` gets; without it all but Fluffle's own"
    )
    skills: dict[Tag, Level] = Field({}, description="a table of levels from 0 to 1, or a list of tags with level 1")
    labels: list[Tag] = Field([], description="what it is, as a list of tags: `local`, if nothing leaves its computer")
    groups: list[Name] = Field([], description="groups whose messages it gets")
    tools: Annotated[list[Tool], BeforeValidator(_in_a_word)] | None = Field(
        None,
        description="what it may do while it works: `all`, `none`, or a list of `send`, `ask`, `delegate`, "
        "`ask_person`, `share` and `read`; without it `all` for `exec` and `handler`, `none` for `model`",
    )
    slots: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="tasks at the same time")
    instructions: str | None = Field(None, description="how it is to work, as text")
    instructions_file: str | None = Field(None, description="the same in a file, from the folder of `fluffle.toml` on")
    description: str = Field("", description="what it is, for people who look at the list of LLMs")
    timeout: Seconds | None = Field(
        None,
        description="seconds that a try may take if its task does not say; without it 1,800 for `model`, "
        "no limit otherwise",
    )
    stall_timeout: Seconds | None = Field(
        None,
        description="seconds without a byte after which an answer of `model` is given up; without it "
        "`FLUFFLE_STALL_TIMEOUT`",
    )
    env: dict[str, str] = Field({}, description="environment variables for its worker")

    @field_validator("skills", mode="before")
    @classmethod
    def _tags_are_skills_of_level_1(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1.0) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _must_make_sense(self) -> Self:
        if sum(way is not None for way in (self.model, self.exec, self.handler)) != 1:
            raise ValueError("needs exactly one of model, exec and handler")
        if self.base_url is not None and self.model is None:
            raise ValueError("base_url goes with model")
        if self.command_env is not None and self.exec is None:
            raise ValueError("command_env goes with exec")
        if self.stall_timeout is not None and self.model is None:
            raise ValueError("stall_timeout goes with model")
        if self.instructions is not None and self.instructions_file is not None:
            raise ValueError("has both instructions and instructions_file")
        return self

    def options(self, instructions: Path | None) -> list[str]:
        """The options of `fluffle worker` for this LLM, with its instructions in that file."""
        values = {
            "--model": self.model,
            "--base-url": self.base_url,
            "--exec": self.exec,
            "--handler": self.handler,
            "--env": None if self.command_env is None else ",".join(self.command_env),
            "--skills": skills_in_text(self.skills) or None,
            "--labels": ",".join(self.labels) or None,
            "--tools": None if self.tools is None else ",".join(self.tools) or "none",
            "--slots": str(self.slots),
            "--instructions": None if instructions is None else str(instructions),
            "--description": self.description or None,
            "--timeout": None if self.timeout is None else f"{self.timeout:g}",
            "--stall-timeout": None if self.stall_timeout is None else f"{self.stall_timeout:g}",
        }
        given = [f"{option}={value}" for option, value in values.items() if value is not None]
        return given + [f"--group={group}" for group in self.groups]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = None
    fluffle: dict[str, Any] = {}
    llm: dict[Name, LLMTable] = {}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a `fluffle.toml` says. `given` names the settings that it has; `folder` is where it lies."""

    settings: Settings
    given: frozenset[str]
    llms: dict[str, LLMTable]
    folder: Path


def load(path: Path) -> Configuration:
    """Read the file. Raises ConfigurationError that names everything that is wrong with it by its path."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f'there is no {path}: write one with a table such as [llm.atlas] and model = "demo" in it, '
            "or name another with -c"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: nested too deeply") from error
    _fill_in_model(tables)
    try:
        content = _File.model_validate(tables)
    except ValidationError as error:
        raise ConfigurationError(_told(path, map(_with_suggestion, problems(error)))) from error
    if unknown := [key for key in content.fluffle if key not in Settings.model_fields]:
        raise ConfigurationError(_told(path, (_unknown(f"fluffle.{key}", Settings.model_fields) for key in unknown)))
    settings = load_settings(content.fluffle, path)
    folder = path.absolute().parent
    if missing := [*_missing_files(content.llm, folder)]:
        raise ConfigurationError(_told(path, missing))
    return Configuration(settings, frozenset(content.fluffle), content.llm, folder)


def _missing_files(llms: dict[str, LLMTable], folder: Path) -> Iterator[Problem]:
    for name, table in llms.items():
        if table.instructions_file is not None and not (folder / table.instructions_file).is_file():
            yield Problem(f"llm.{name}.instructions_file", f"there is no file {folder / table.instructions_file}")


def _fill_in_model(tables: dict[str, Any]) -> None:
    """The model above all tables is that of every LLM that does not say what it is."""
    llms = tables.get("llm")
    if tables.get("model") is None or not isinstance(llms, dict):
        return
    for table in llms.values():
        if isinstance(table, dict) and not table.keys() & {"model", "exec", "handler"}:
            table["model"] = tables["model"]


def _told(path: Path, found: Iterable[Problem]) -> str:
    return f"{path}: " + "; ".join(map(str, found))


def _with_suggestion(problem: Problem) -> Problem:
    """An unknown key, with what may have been meant; a value in place of a table; every other problem as it is."""
    if problem.message.startswith("Input should be a valid dictionary"):
        return problem._replace(message="is no table, which begins with a line such as [llm.atlas]")
    if problem.message != "unknown field":
        return problem
    return _unknown(problem.path, LLMTable.model_fields if problem.path.startswith("llm.") else _File.model_fields)


def _unknown(path: str, known: Iterable[str]) -> Problem:
    hint = did_you_mean(path.rpartition(".")[2], known) or f"; there are {', '.join(known)}"
    return Problem(path, f"unknown key{hint}")
