"""The file `fluffle.toml`: settings, rate limits, budgets, prices, and the LLMs that `fluffle up` runs."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.errors import ConfigurationError, Problem, did_you_mean
from broker.protocol.primitives import Ability, ContextWindow, Dollars, Level, Name, Seconds, Spill, Tag, problems
from broker.protocol.spending import By, Per, Rate, Runs, TokenCount, Usd
from broker.protocol.task_requests import TOOLS, OnEmpty, Tool
from broker.protocol.worker_reports import skills_in_text
from broker.settings import Settings, load_settings


def _expand_tools(tools: Any) -> Any:
    """Return `all` and `none` as lists."""
    return {"all": list(TOOLS), "none": []}.get(tools, tools) if isinstance(tools, str) else tools


def _as_price(value: Any) -> Any:
    """Return the table of a price; 0 is that of a free model."""
    return {"input": 0.0, "output": 0.0} if value == 0 and not isinstance(value, bool) else value


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LimitTable(_Table):
    """A table `[limits.NAME]`: the figures of a rate limit."""

    requests_per_minute: Rate | None = Field(None, description="maximum number of requests to the provider in a minute")
    tokens_per_minute: Rate | None = Field(None, description="maximum number of tokens in a minute")
    concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="maximum number of tasks at the same time, on all computers together"
    )

    @model_validator(mode="after")
    def _check_figures(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("needs at least one of requests_per_minute, tokens_per_minute and concurrent")
        return self


class BudgetTable(_Table):
    """A table `[budgets.NAME]`: what may be used, and in which period."""

    usd: Usd | None = Field(None, description="maximum US dollars")
    tokens: TokenCount | None = Field(None, description="maximum tokens, in and out")
    runs: Runs | None = Field(None, description="maximum runs of LLMs")
    per: Per = Field(
        "month", description="the period, in UTC: `hour`, `day`, `week`, which begins on Monday, or `month`"
    )
    by: By | None = Field(
        None, description="each `submitter`, `label`, `llm` or `limit` has this budget; default: one budget for all"
    )
    on_empty: OnEmpty = Field(
        "wait", description="what a task does when not enough is left: `wait`, `ask` a person, or `fail`"
    )

    @model_validator(mode="after")
    def _check_figures(self) -> Self:
        if self.usd is None and self.tokens is None and self.runs is None:
            raise ValueError("needs at least one of usd, tokens and runs")
        return self


class PriceTable(_Table):
    """A table `[prices."MODEL"]`, or the key `price` of an LLM: US dollars per million tokens."""

    input: Dollars = Field(description="US dollars per million input tokens")
    output: Dollars = Field(description="US dollars per million output tokens")
    cached_input: Dollars | None = Field(
        None, description="US dollars per million cached input tokens; default: `input`"
    )
    cache_write: Dollars | None = Field(
        None, description="US dollars per million input tokens that are written to a cache; default: `input`"
    )

    def option(self) -> str:
        """Return the price as the value of an option of `fluffle worker`."""
        figures = [self.input, self.output]
        if self.cached_input is not None or self.cache_write is not None:
            figures.append(self.input if self.cached_input is None else self.cached_input)
        if self.cache_write is not None:
            figures.append(self.cache_write)
        return ",".join(f"{figure:.12g}" for figure in figures)


class LLMTable(_Table):
    """A table `[llm.NAME]`. Exactly one of `model`, `exec` and `handler` is required."""

    model: str | None = Field(None, description="a model such as `ollama:llama3.2`, or `demo`, the offline model")
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
    env: dict[str, str] = Field({}, description="environment variables for the worker")
    limit: Tag | None = Field(
        None, description="the rate limit that the LLM shares; default: LLMs with the same API key share one"
    )
    fallback: list[str] = Field([], description="models that answer when `model` cannot, in this order")
    price: Annotated[PriceTable, BeforeValidator(_as_price)] | None = Field(
        None,
        description="its price, such as `{ input = 3, output = 15 }` in US dollars per million tokens, or 0; default: "
        "that of `[prices]`, else the known price of the model",
    )
    local: bool | None = Field(
        None, description="whether the LLM sends no data to other computers: it may do tasks with `local-only`"
    )
    reserve: bool | None = Field(None, description="whether the LLM gets tasks only if other LLMs cannot do them")
    spill: Spill | None = Field(
        None,
        description="when a reserve gets tasks although others work: they would finish `late`; they are `busy`; "
        "`never`; default: `late`",
    )
    spill_after: Seconds | None = Field(
        None, description="seconds that the others must be busy, for `busy`; default: 60"
    )
    context_window: ContextWindow | None = Field(None, description="maximum tokens of a prompt and its answer")
    abilities: list[Ability] | None = Field(
        None, description="what the model can do besides text: a list of `tools`, `pictures` and `schema`"
    )

    @field_validator("skills", mode="before")
    @classmethod
    def _tags_are_skills_of_level_1(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1.0) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if sum(kind is not None for kind in (self.model, self.exec, self.handler)) != 1:
            raise ValueError("needs exactly one of model, exec and handler")
        if self.base_url is not None and self.model is None:
            raise ValueError("base_url needs model")
        if self.command_env is not None and self.exec is None:
            raise ValueError("command_env needs exec")
        if self.stall_timeout is not None and self.model is None:
            raise ValueError("stall_timeout needs model")
        if self.fallback and self.model is None:
            raise ValueError("fallback needs model")
        if (self.spill is not None or self.spill_after is not None) and not self.reserve:
            raise ValueError("spill and spill_after need reserve = true")
        if self.spill_after is not None and self.spill != "busy":
            raise ValueError('spill_after needs spill = "busy"')
        if self.instructions is not None and self.instructions_file is not None:
            raise ValueError("has both instructions and instructions_file: give one of them")
        return self

    def grant(self) -> dict[str, object]:
        """Return the properties that an operator grants: they are set by hand when the LLM has connected."""
        granted = {name: getattr(self, name) for name in ("local", "reserve", "spill", "spill_after")}
        return {name: value for name, value in granted.items() if value is not None}

    def options(self, instructions: Path | None, prices: Mapping[str, PriceTable] | None = None) -> list[str]:
        """Return the options of `fluffle worker` for this LLM, with the file of its instructions.

        `prices` are those of models, by name with or without the provider.
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
            "--limit": self.limit,
            "--fallback": ",".join(self.fallback) or None,
            "--spill": self.spill if self.spill_after is None else f"{self.spill}:{self.spill_after:g}",
            "--context-window": None if self.context_window is None else str(self.context_window),
            "--abilities": None if self.abilities is None else ",".join(self.abilities) or "none",
        }
        given = [f"{option}={value}" for option, value in values.items() if value is not None]
        given += [f"--price={price}" for price in self._prices(prices or {})]
        return given + (["--reserve"] if self.reserve else []) + [f"--group={group}" for group in self.groups]

    def _prices(self, prices: Mapping[str, PriceTable]) -> Iterator[str]:
        """Yield the price of the LLM, and those of its fallback models with their names."""
        if price := self.price or _price_of(self.model or "", prices):
            yield price.option()
        for model in self.fallback:
            if price := _price_of(model, prices):
                yield f"{model}={price.option()}"


def _price_of(model: str, prices: Mapping[str, PriceTable]) -> PriceTable | None:
    return prices.get(model) or prices.get(model.partition(":")[2])


class _File(_Table):
    model: str | None = None
    fluffle: dict[str, Any] = {}
    llm: dict[Name, LLMTable] = {}
    limits: dict[Tag, LimitTable] = {}
    budgets: dict[Name, BudgetTable] = {}
    prices: dict[str, Annotated[PriceTable, BeforeValidator(_as_price)]] = {}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The content of a `fluffle.toml`. `given` are the names of its settings; `folder` is the folder of the file."""

    settings: Settings
    given: frozenset[str]
    llms: dict[str, LLMTable]
    folder: Path
    limits: dict[str, LimitTable]
    budgets: dict[str, BudgetTable]
    prices: dict[str, PriceTable]


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
    return Configuration(
        settings,
        frozenset(content.fluffle),
        content.llm,
        folder,
        limits=content.limits,
        budgets=content.budgets,
        prices=content.prices,
    )


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


_TABLES: dict[str, type[_Table]] = {
    "llm": LLMTable,
    "limits": LimitTable,
    "budgets": BudgetTable,
    "prices": PriceTable,
}
"""The table of each kind, for suggestions."""


def _joined(path: Path, found: Iterable[Problem]) -> str:
    return f"{path}: " + "; ".join(map(str, found))


def _with_suggestion(problem: Problem) -> Problem:
    """Return the problem, with a suggestion for an unknown key and a hint for a value instead of a table."""
    if problem.message.startswith("Input should be a valid dictionary"):
        example = {"limits": "limits.main", "budgets": "budgets.team", "prices": 'prices."gpt-6-luna"'}
        table = example.get(problem.path.partition(".")[0], "llm.atlas")
        return problem._replace(message=f"must be a table, which begins with a line such as [{table}]")
    if problem.message != "unknown field":
        return problem
    part, within, rest = problem.path.partition(".")
    kind: type[_Table] = PriceTable if ".price." in rest else _TABLES[part] if within else _File
    return _unknown(problem.path, kind.model_fields)


def _unknown(path: str, known: Iterable[str]) -> Problem:
    hint = did_you_mean(path.rpartition(".")[2], known) or f"; there are {', '.join(known)}"
    return Problem(path, f"unknown key{hint}")
