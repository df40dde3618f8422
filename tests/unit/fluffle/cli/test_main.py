"""The command `fluffle` as a whole: its help, its errors, its exit codes."""

import json
import subprocess
import sys

import click
import pytest

from broker.errors import BrokerUnreachable, TaskCancelled, TaskFailed
from fluffle.cli import exit_codes, main
from fluffle.cli.lazy import LazyCommand
from tests.support.processes import ROOT


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the command `fail` raises, first to last."""
    errors: list[BaseException] = []

    def fail() -> None:
        raise errors.pop(0)

    monkeypatch.setitem(main.cli.commands, "fail", click.Command("fail", callback=fail))
    return errors


def test_help_imports_no_library_but_click() -> None:
    program = (
        "import sys, json; from fluffle.cli.main import run; run(['--help']); print(json.dumps(sorted(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    modules = {name.partition(".")[0] for name in json.loads(printed.splitlines()[-1])}
    assert "click" in modules
    assert modules.isdisjoint(
        {"pika", "pydantic", "rich", "sqlalchemy", "structlog", "asyncio", "workers", "coordinator"}
    )


def test_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in main.cli.commands)
    assert "3   a task failed or was cancelled" in printed


@pytest.mark.parametrize("stand_in", main.COMMANDS, ids=lambda command: str(command.name))
def test_every_command_of_the_list_can_be_loaded(stand_in: LazyCommand) -> None:
    assert stand_in.load().name == stand_in.name


@pytest.mark.parametrize(("typed", "meant"), [(["tsk"], "task"), (["task", "sbmit"], "submit")])
def test_a_typo_gets_a_suggestion(typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(typed) == exit_codes.USAGE
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_an_error_is_one_line(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(BrokerUnreachable("RabbitMQ at 127.0.0.1:5672 cannot be reached"))
    assert main.run(["fail"]) == exit_codes.ERROR
    captured = capsys.readouterr()
    assert captured.err == (
        "Error: RabbitMQ at 127.0.0.1:5672 cannot be reached. Start RabbitMQ, or set FLUFFLE_AMQP_URL to another one\n"
    )
    assert captured.out == ""


def test_a_full_disk_is_an_error_of_one_line(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing += [OSError(28, "No space left on device"), PermissionError(13, "Permission denied", "/etc/shadow")]
    assert main.run(["fail"]) == exit_codes.ERROR
    assert main.run(["fail"]) == exit_codes.ERROR
    assert capsys.readouterr().err.splitlines() == [
        "Error: No space left on device",
        "Error: /etc/shadow: Permission denied",
    ]


@pytest.mark.parametrize("error", [TaskFailed("task t failed: broken"), TaskCancelled("task t was cancelled")])
def test_a_task_that_was_not_completed_has_a_separate_exit_code(failing: list[BaseException], error: Exception) -> None:
    failing.append(error)
    assert main.run(["fail"]) == exit_codes.TASK_FAILED


def test_an_interrupt_has_a_separate_exit_code_and_no_traceback(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(KeyboardInterrupt())
    assert main.run(["fail"]) == exit_codes.INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"fluffle {version('fluffle')}\n"


def test_the_page_of_commands_is_up_to_date() -> None:
    command = [sys.executable, "-m", "fluffle.cli.reference"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert written == said, "run: python -m fluffle.cli.reference > docs/cli.md"


def test_a_shell_completes_commands_without_loading_them_and_options_after_loading() -> None:
    def completions(words: str) -> list[str]:
        environment = {"_FLUFFLE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", "from fluffle.cli.main import main; main()"]
        printed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [line.partition(",")[2] for line in printed.splitlines()]

    assert completions("fluffle ta") == ["task"]
    assert "in_progress" in completions("fluffle task list --status ")
