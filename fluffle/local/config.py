"""The file `fluffle.toml`: settings, and the LLMs that `fluffle up` runs."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.errors import ConfigurationError, Problem, did_you_mean
from broker.protocol.primitives import Ability, ContextWindow, Level, Name, Seconds, Tag, problems
from broker.protocol.task_requests import TOOLS, Tool
from broker.protocol.worker_reports import Price, skills_in_text
from broker.settings import Settings, load_settings


def _expand_tools(tools: Any) -> Any:
    """Return `all` and `none` as lists."""
    return {"all": list(TOOLS), "none": []}.get(tools, tools) if isinstance(tools, str) else tools


class LLMTable(BaseModel):
    """A table `[llm.NAME]`. Exactly one of `model`, `exec` and `handler` is required."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = Field(None, description="a model such as `ollama:llama3.2`, or `demo`, the offline model")
    fallback: list[str] = Field(
        [], description="other models, best first, for when `model` cannot answer: a limit, a server that fails, …"
    )
    base_url: str | None = Field(None, description="the URL of the model's server, if it is not the provider's")
    exec: str | None = Field(None, description="a command: prompt on its input, answer on its output")
    handler: str | None = Field(None, description="a Python function, as `module:function`")
    command_env: list[str] | None = Field(
        None, description="names of environment variables for `exec`; default: all except Fluffle's"
    )
    skills: dict[Tag, Level] = Field({}, description="a table of levels from 0 to 1, or a list of tags with level 1")
    labels: list[Tag] = Field(
        [], description="a list of tags. `local` means that the LLM sends no data to other computers"
    )
    groups: list[Name] = Field([], description="groups whose messages the LLM receives")
    tools: Annotated[list[Tool], BeforeValidator(_expand_tools)] | None = Field(
        None,
        description="tools that the LLM may use: `all`, `none`, or a list of `send`, `ask`, `delegate`, "
        "`ask_person`, `share` and `read`; default: `all` for `exec` and `handler`, `none` for `model`",
    )
    slots: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="maximum number of parallel tasks")
    instructions: str | None = Field(None, description="instructions for the LLM, as text")
    instructions_file: str | None = Field(
        None, description="the same in a file, relative to the folder of `fluffle.toml`"
    )
    description: str = Field("", description="a description for the list of LLMs")
    timeout: Seconds | None = Field(
        None,
        description="maximum seconds of an attempt, if the task sets no timeout; default: 1,800 for `model`, "
        "otherwise no limit",
    )
    stall_timeout: Seconds | None = Field(
        None,
        description="maximum seconds without data from `model`; default: `FLUFFLE_STALL_TIMEOUT`",
    )
    limit: Tag | None = Field(
        None,
        description="the rate limit that the LLM shares with others; default: of `model`, one for each provider, URL "
        "and API key",
    )
    price: Price | None = Field(
        None,
        description="dollars per million tokens, as a table with `input`, `output` and perhaps `cached_input`, or 0; "
        "default: that in `[prices]`, or the known price of `model`",
    )
    reserve: bool = Field(False, description="whether the LLM gets tasks only when others cannot do them")
    spill: Annotated[str, Field(pattern=r"^(late|never|busy(:\d+(\.\d+)?[smhd]?)?)$")] = Field(
        "late",
        description="when a reserve LLM gets tasks although others work: `late`, `never`, or `busy:60` (if they would "
        "wait longer than 60 seconds)",
    )
    context_window: ContextWindow | None = Field(
        None, description="the most tokens of a prompt and its answer; default: of `model`, if known"
    )
    abilities: list[Ability] | None = Field(
        None, description="what it can do besides text: `tools`, `pictures`, `schema`; default: of `model`, if known"
    )
    env: dict[str, str] = Field({}, description="environment variables for the worker")

    @field_validator("skills", mode="before")
    @classmethod
    def _tags_are_skills_of_level_1(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1.0) if isinstance(value, list) else value

    @field_validator("price", mode="before")
    @classmethod
    def _zero_is_free(cls, value: Any) -> Any:
        return _as_price(value)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if sum(kind is not None for kind in (self.model, self.exec, self.handler)) != 1:
            raise ValueError("needs exactly one of model, exec and handler")
        if self.base_url is not None and self.model is None:
            raise ValueError("base_url needs model")
        if self.fallback and self.model is None:
            raise ValueError("fallback needs model")
        if self.command_env is not None and self.exec is None:
            raise ValueError("command_env needs exec")
        if self.stall_timeout is not None and self.model is None:
            raise ValueError("stall_timeout needs model")
        if self.instructions is not None and self.instructions_file is not None:
            raise ValueError("has both instructions and instructions_file: give one of them")
        return self

    def options(self, instructions: Path | None, prices: Mapping[str, Price] | None = None) -> list[str]:
        """Return the options of `fluffle worker` for this LLM, with the file of its instructions.

        `prices` are the known prices by name of a model.
        """
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
            "--fallback": ",".join(self.fallback) or None,
            "--limit": self.limit,
            "--price": None if self.price is None else _price_in_text(self.price),
            "--spill": None if self.spill == "late" else self.spill,
            "--context-window": None if self.context_window is None else str(self.context_window),
            "--abilities": None if self.abilities is None else ",".join(self.abilities) or "none",
        }
        given = [f"{option}={value}" for option, value in values.items() if value is not None]
        given += [f"--group={group}" for group in self.groups]
        given += [f"--price={model}={_price_in_text(price)}" for model, price in self._prices(prices or {}).items()]
        return [*given, "--reserve"] if self.reserve else given

    def _prices(self, prices: Mapping[str, Price]) -> dict[str, Price]:
        """Return the prices of the models of this LLM. Its own price counts more than that of its model."""
        names = [*self.fallback] if self.model is None or self.price is not None else [self.model, *self.fallback]
        return {name: prices[name] for name in names if name in prices}


def _as_price(value: Any) -> Any:
    """Return the table of a price; 0 is that of a free model."""
    return {"input": 0.0, "output": 0.0} if value == 0 and not isinstance(value, bool) else value


def _price_in_text(price: Price) -> str:
    """Return a price in the form of `fluffle worker --price`."""
    figures = [price.input, price.output]
    if price.cached_input is not None or price.cache_write is not None:
        figures.append(price.input if price.cached_input is None else price.cached_input)
    if price.cache_write is not None:
        figures.append(price.cache_write)
    return ",".join(f"{figure:.12g}" for figure in figures)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = None
    fluffle: dict[str, Any] = {}
    llm: dict[Name, LLMTable] = {}
    prices: dict[str, Annotated[Price, BeforeValidator(_as_price)]] = {}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The content of a `fluffle.toml`. `given` are the names of its settings; `folder` is the folder of the file."""

    settings: Settings
    given: frozenset[str]
    llms: dict[str, LLMTable]
    folder: Path
    prices: dict[str, Price] = field(default_factory=dict)


def load(path: Path) -> Configuration:
    """Read the file. Raises ConfigurationError with the path of each problem in it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f'there is no file {path}: create one with a table such as [llm.atlas] and model = "demo" in it, '
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
        raise ConfigurationError(_joined(path, map(_with_suggestion, problems(error)))) from error
    if unknown := [key for key in content.fluffle if key not in Settings.model_fields]:
        raise ConfigurationError(_joined(path, (_unknown(f"fluffle.{key}", Settings.model_fields) for key in unknown)))
    settings = load_settings(content.fluffle, path)
    folder = path.absolute().parent
    if missing := [*_missing_files(content.llm, folder)]:
        raise ConfigurationError(_joined(path, missing))
    return Configuration(settings, frozenset(content.fluffle), content.llm, folder, content.prices)


def _missing_files(llms: dict[str, LLMTable], folder: Path) -> Iterator[Problem]:
    for name, table in llms.items():
        if table.instructions_file is not None and not (folder / table.instructions_file).is_file():
            yield Problem(f"llm.{name}.instructions_file", f"there is no file {folder / table.instructions_file}")


def _fill_in_model(tables: dict[str, Any]) -> None:
    """Copy the top-level model into each LLM table without model, exec and handler."""
    llms = tables.get("llm")
    if tables.get("model") is None or not isinstance(llms, dict):
        return
    for table in llms.values():
        if isinstance(table, dict) and not table.keys() & {"model", "exec", "handler"}:
            table["model"] = tables["model"]


def _joined(path: Path, found: Iterable[Problem]) -> str:
    return f"{path}: " + "; ".join(map(str, found))


def _with_suggestion(problem: Problem) -> Problem:
    """Return the problem, with a suggestion for an unknown key and a hint for a value instead of a table."""
    if problem.message.startswith("Input should be a valid dictionary"):
        return problem._replace(message="must be a table, which begins with a line such as [llm.atlas]")
    if problem.message != "unknown field":
        return problem
    return _unknown(problem.path, LLMTable.model_fields if problem.path.startswith("llm.") else _File.model_fields)


def _unknown(path: str, known: Iterable[str]) -> Problem:
    hint = did_you_mean(path.rpartition(".")[2], known) or f"; there are {', '.join(known)}"
    return Problem(path, f"unknown key{hint}")
