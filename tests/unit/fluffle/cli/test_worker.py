"""`fluffle worker`: what is wrong with its options is one clear sentence, before anything is connected."""

from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigurationError
from broker.protocol.worker_reports import Price
from fluffle.cli.exit_codes import ERROR, OK, USAGE
from fluffle.cli.main import run
from workers import app
from workers.models import factory
from workers.options import WorkerOptions


@pytest.fixture(autouse=True)
def _no_rabbitmq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLUFFLE_AMQP_URL", raising=False)
    monkeypatch.setenv("FLUFFLE_STATE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["Atlas", "--model", "demo"], USAGE, "'Atlas' is not a valid name: use 1-63 of a-z, 0-9 and '-'"),
        (["a" * 64, "--model", "demo"], USAGE, "is not a valid name: use 1-63 of a-z, 0-9"),
        (["atlas", "--model", "demo", "--skills", "Python"], USAGE, "'Python' is not a valid skill: use lower case"),
        (
            ["atlas", "--model", "demo", "--skills", "python=1.5"],
            USAGE,
            "level of python must be a number from 0 to 1",
        ),
        (
            ["atlas", "--model", "demo", "--skills", "python=nan"],
            USAGE,
            "level of python must be a number from 0 to 1",
        ),
        (["atlas", "--model", "demo", "--slots", "0"], USAGE, "0 is not in the range"),
        (["atlas", "--model", "demo", "--timeout", "soon"], USAGE, "'soon' must be a duration"),
        (["atlas", "--model", "demo", "--instructions", "/nowhere"], USAGE, "'/nowhere' does not exist"),
        (["atlas", "--model", "demo", "--limit", "Main Account"], USAGE, "'Main Account' is not a valid name"),
        (["atlas", "--model", "demo", "--price", "cheap"], USAGE, "'cheap' must be INPUT,OUTPUT"),
        (["atlas", "--model", "demo", "--price", "1"], USAGE, "'1' must be INPUT,OUTPUT"),
        (["atlas", "--model", "demo", "--price", "1,-2"], USAGE, "'1,-2' must be INPUT,OUTPUT"),
        (["atlas", "--model", "demo", "--price", "nan,1"], USAGE, "'nan,1' must be INPUT,OUTPUT"),
        (["atlas", "--model", "demo", "--price", "gpt=1,2"], USAGE, "--price: gpt is not one of the models"),
        (["atlas", "--model", "demo", "--spill", "often"], USAGE, "'often' must be late, busy, busy:SECONDS or never"),
        (["atlas", "--model", "demo", "--spill", "late:9"], USAGE, "'late:9' must be late, busy, busy:SECONDS or"),
        (["atlas", "--model", "demo", "--spill", "busy:0"], USAGE, "'busy:0': the time must be longer than 0"),
        (["atlas", "--model", "demo", "--abilities", "flying"], USAGE, "'flying' must be one of none, tools"),
        (["atlas", "--model", "demo", "--context-window", "0"], USAGE, "0 is not in the range"),
        (["atlas", "--model", "demo", "--fallback", "openai:gpt-5"], USAGE, "--fallback goes with a --model of a"),
        (["atlas"], USAGE, "exactly one of --model, --exec and --handler"),
        (["atlas", "--model", "demo", "--exec", "cat"], USAGE, "exactly one of --model, --exec and --handler"),
        (["atlas", "--model", "demo"], ERROR, "start a private one with `fluffle broker start`"),
    ],
)
def test_a_wrong_option_is_an_error(
    options: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["worker", *options]) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_instructions_that_are_not_text_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "instructions"
    file.write_bytes(b"\xff\xfe\x00")
    assert run(["worker", "atlas", "--model", "demo", "--instructions", str(file)]) == USAGE
    assert f"cannot read {file}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "timeout"),
    [
        (["--model", "demo"], 1800.0),
        (["--model", "demo", "--timeout", "5m"], 300.0),
        (["--exec", "cat"], None),
        (["--handler", "json:dumps"], None),
    ],
)
def test_the_default_timeout_of_a_model_is_half_an_hour(
    options: list[str], timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Worker:
        def __init__(self, options: WorkerOptions, *_: Any, **__: Any) -> None:
            given["timeout"] = options.timeout

        async def run(self) -> None:
            """Done at once."""

    monkeypatch.setenv("FLUFFLE_AMQP_URL", "amqp://127.0.0.1:1")
    monkeypatch.setattr(app, "Worker", Worker)
    assert run(["worker", "atlas", *options]) == OK
    assert given["timeout"] == timeout


@pytest.mark.parametrize(
    ("option", "setting", "seconds"), [([], None, 120.0), ([], "30", 30.0), (["--stall-timeout", "10m"], "30", 600.0)]
)
def test_the_stall_timeout_comes_from_the_option_or_the_setting(
    option: list[str], setting: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def build_llm(**arguments: Any) -> Any:
        given.update(arguments)
        raise ConfigurationError("enough")

    if setting is not None:
        monkeypatch.setenv("FLUFFLE_STALL_TIMEOUT", setting)
    monkeypatch.setattr(factory, "build_llm", build_llm)
    assert run(["worker", "atlas", "--model", "demo", *option]) == USAGE
    assert given["stall_timeout"] == seconds


@pytest.mark.parametrize(
    ("options", "env"),
    [([], None), (["--env", "A_KEY,B_KEY", "--env", "C_KEY"], ["A_KEY", "B_KEY", "C_KEY"]), (["--env="], [])],
)
def test_a_command_gets_all_variables_or_those_of_the_option(
    options: list[str], env: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def build_llm(**arguments: Any) -> Any:
        given.update(arguments)
        raise ConfigurationError("enough")

    monkeypatch.setattr(factory, "build_llm", build_llm)
    assert run(["worker", "atlas", "--exec", "cat", *options]) == USAGE
    assert given["env"] == env


FREE, CHEAP = Price(input=0.0, output=0.0), Price(input=0.5, output=2.0, cached_input=0.05, cache_write=0.6)


@pytest.mark.parametrize(
    ("options", "reported", "of_runs"),
    [
        (["--model", "demo"], {"price": FREE}, None),
        (["--exec", "cat"], {}, None),
        (["--exec", "cat", "--price", "0"], {"price": FREE}, FREE),
        (["--exec", "cat", "--price", "free"], {"price": FREE}, FREE),
        (["--exec", "cat", "--price", "0.5,2,0.05,0.6", "--limit", "team"], {"price": CHEAP, "limit": "team"}, CHEAP),
        (["--model", "demo", "--price", "demo=0.5,2,0.05,0.6"], {"price": CHEAP}, CHEAP),
        (["--exec", "cat", "--reserve", "--spill", "busy:5m"], {"reserve": True, "spill_after": 300}, None),
        (["--exec", "cat", "--spill", "never"], {"spill": "never", "spill_after": 60}, None),
        (["--exec", "cat", "--context-window", "8192"], {"context_window": 8192}, None),
        (["--exec", "cat", "--abilities", "tools,pictures"], {"abilities": ["tools", "pictures"]}, None),
        (["--exec", "cat", "--abilities", "none"], {"abilities": []}, None),
        (
            ["--model", "ollama:llama3.2", "--limit", "gpu", "--price", "0.5,2,0.05,0.6"],
            {"price": CHEAP, "limit": "gpu"},
            None,
        ),
    ],
)  # fmt: skip
def test_the_properties_of_an_llm_are_options(
    options: list[str], reported: dict[str, Any], of_runs: Price | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[WorkerOptions] = []

    class Worker:
        def __init__(self, options: WorkerOptions, *_: Any, **__: Any) -> None:
            given.append(options)

        async def run(self) -> None:
            """Done at once."""

    monkeypatch.setenv("FLUFFLE_AMQP_URL", "amqp://127.0.0.1:1")
    monkeypatch.setattr(app, "Worker", Worker)
    assert run(["worker", "atlas", *options]) == OK
    presence = given[0].presence
    assert {name: getattr(presence, name) for name in reported} == reported
    assert given[0].price == of_runs
    if "price" not in reported:
        assert presence.price is None
    if "limit" not in reported:
        assert presence.limit is None
