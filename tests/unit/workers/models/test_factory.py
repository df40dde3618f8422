"""Whatever is wrong with the options of a worker is said before its first task, with what to do."""

import os
import sys
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from workers.models.factory import build_llm
from workers.models.protocols import LLM


def build(
    model: str | None = None, base_url: str | None = None, exec_command: str | None = None, handler: str | None = None
) -> LLM:
    return build_llm(model=model, base_url=base_url, exec_command=exec_command, handler=handler)


@pytest.fixture(autouse=True)
def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)


def test_an_llm_has_exactly_one_kind() -> None:
    with pytest.raises(ConfigurationError, match="exactly one of --model, --exec and --handler; got none"):
        build()
    with pytest.raises(ConfigurationError, match="got --model and --exec"):
        build(model="demo", exec_command="cat")


def test_the_name_of_a_model_shows_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(model="demo").model == "demo (offline extractive summariser)"
    assert build(exec_command="/bin/echo --key sk-secret").model == "exec:echo"
    assert build(handler="json:dumps").model == "handler:json:dumps"
    assert build(model="ollama:llama3.2").model == "ollama:llama3.2"


@pytest.mark.parametrize(
    ("model", "variable"), [("openai:gpt-5", "OPENAI_API_KEY"), ("anthropic:claude-sonnet-4-5", "ANTHROPIC_API_KEY")]
)
def test_a_missing_api_key_is_named(model: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=f"^--model {model}: set the environment variable {variable}$"):
        build(model=model)
    monkeypatch.setenv(variable, "sk-test")
    assert build(model=model).model == model


@pytest.mark.parametrize("model", ["nobody:gpt", "llama3"])
def test_the_error_for_an_unknown_model_shows_the_form_of_names(model: str) -> None:
    with pytest.raises(ConfigurationError, match="A model is named provider:model, such as"):
        build(model=model)


def test_the_error_for_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r'pip install "pydantic-ai-slim\[groq\]"'):
        build(model="groq:llama")


def test_the_error_without_pydantic_ai_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'fluffle\[llm\]'"):
        build(model="openai:gpt-5")


def test_env_belongs_to_a_command() -> None:
    with pytest.raises(ConfigurationError, match="--env goes with --exec"):
        build_llm(model="demo", base_url=None, exec_command=None, handler=None, env=["A_KEY"])


def test_a_base_url_belongs_to_a_model_and_is_a_url() -> None:
    with pytest.raises(ConfigurationError, match="--base-url goes with a --model"):
        build(exec_command="cat", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigurationError, match="--base-url goes with a --model"):
        build(model="demo", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigurationError, match="must start with http:// or https://, got 'localhost:1'"):
        build(model="openai:qwen", base_url="localhost:1")
    with pytest.raises(ConfigurationError, match="the provider azure takes none"):
        build(model="azure:gpt-5", base_url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-program -p", "no such program, or it may not be executed: no-such-program"),
        ("sh -c 'echo", "No closing quotation"),
        ("   ", "the command line is empty"),
        ("./script", "no such program, or it may not be executed: ./script"),
    ],
)
def test_a_command_that_cannot_run_is_found_at_once(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script").write_text("not executable")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        build(exec_command=command)
