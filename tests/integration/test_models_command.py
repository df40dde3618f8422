"""A real command as an LLM: what it reads, what it writes, how it fails, and that nothing of it is left."""

import asyncio
import os
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from broker.errors import ConfigurationError
from tests.support.processes import is_gone
from workers.models import command
from workers.models.base import Answer, Job, ModelError
from workers.models.command import CommandLLM
from workers.tools.toolbox import Toolbox


def shell(script: str) -> CommandLLM:
    return CommandLLM(f"sh -c {shlex.quote(script)}")


def python(code: str) -> CommandLLM:
    return CommandLLM(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")


async def run(llm: CommandLLM, progress: Callable[[str], None] = lambda text: None, **job: Any) -> Answer:
    return await asyncio.wait_for(llm.run(Job("t-1", 3, **{"description": "Say hello.", **job}), progress), 20)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - processes set no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(llm: CommandLLM) -> AsyncIterator[tuple["asyncio.Task[Answer]", list[int]]]:
    """A job under way, and the process ids that its command has written in its first line."""
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    job = Job("t-1", 1, "Say hello.")
    task = asyncio.create_task(llm.run(job, lambda text: None if first.done() else first.set_result(text)))
    try:
        yield task, [int(pid) for pid in (await asyncio.wait_for(first, 10)).split()]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_prompt_is_read_and_the_answer_written() -> None:
    answer = await run(CommandLLM("cat"), inputs="ünïcode")
    assert answer.result == "<task>\nSay hello.\n</task>\n\n<inputs>\nünïcode\n</inputs>"
    assert answer.usage is None


async def test_instructions_come_before_the_prompt() -> None:
    assert (await run(CommandLLM("cat"), instructions="Be brief.")).result == "Be brief.\n\nSay hello."


async def test_only_the_newlines_at_the_end_are_cut_off() -> None:
    assert (await run(shell(r"printf ' one\n\ntwo \n\n'"))).result == " one\n\ntwo "


async def test_no_shell_looks_at_the_command_line() -> None:
    assert (await run(CommandLLM("echo $HOME '*' ; id | cat"))).result == "$HOME * ; id | cat"


async def test_the_command_knows_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "k")
    answer = await run(shell("echo $FLUFFLE_TASK_ID $FLUFFLE_ATTEMPT $SOME_API_KEY"))
    assert answer.result == "t-1 3 k"


async def test_the_command_has_none_of_the_worker_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "k")
    for name in (
        "AMQP_URL",
        "AMQP_PASSWORD",
        "AMQP_URL_FILE",
        "DATABASE_URL",
        "WEB_TOKEN",
        "MANAGEMENT_URL",
        "TLS_KEY",
    ):
        monkeypatch.setenv(f"FLUFFLE_{name}", "secret")
    told = str((await run(shell("env"))).result).splitlines()
    assert {line.partition("=")[0] for line in told if line.startswith("FLUFFLE_")} == {
        "FLUFFLE_TASK_ID",
        "FLUFFLE_ATTEMPT",
    }
    assert "SOME_API_KEY=k" in told
    assert not any("secret" in line for line in told)


async def test_with_env_the_command_has_the_basic_variables_and_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OTHER_API_KEY", "FLUFFLE_AMQP_URL", "LC_TIME"):
        monkeypatch.setenv(name, "x")
    llm = CommandLLM("env", env=["OPENAI_API_KEY", "UNSET_API_KEY"])
    found = {line.partition("=")[0] for line in str((await run(llm)).result).splitlines()}
    assert {"OPENAI_API_KEY", "LC_TIME", "PATH", "FLUFFLE_TASK_ID"} <= found
    assert not found & {"OTHER_API_KEY", "FLUFFLE_AMQP_URL", "UNSET_API_KEY"}


def test_env_cannot_name_a_variable_of_fluffle() -> None:
    with pytest.raises(ConfigurationError, match="never gets Fluffle's own variables: FLUFFLE_AMQP_URL"):
        CommandLLM("env", env=["PATH", "FLUFFLE_AMQP_URL"])


async def test_the_command_has_a_session_of_its_own() -> None:
    """So that Ctrl-C in the worker's terminal drains the worker and does not end the work in hand."""
    assert (await run(python("import os; print(os.getsid(0) == os.getpid())"))).result == "True"


async def test_text_is_shown_as_it_is_written(tmp_path: Path) -> None:
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        (tmp_path / "seen").touch()

    script = f"echo one; while [ ! -e {tmp_path}/seen ]; do sleep 0.01; done; echo two"
    assert (await run(shell(script), show)).result == "one\ntwo"
    assert shown[0] == "one\n"
    assert "".join(shown) == "one\ntwo\n"


async def test_a_character_cut_in_two_is_shown_whole() -> None:
    shown: list[str] = []
    code = "import os, time; os.write(1, b'\\xc3'); time.sleep(0.1); os.write(1, b'\\xbc')"
    assert (await run(python(code), shown.append)).result == "ü"
    assert "".join(shown) == "ü"


@pytest.mark.parametrize("script", ["echo fine", "exec 0<&-; echo fine"])
async def test_a_command_that_does_not_read_its_prompt_is_not_held_up(script: str) -> None:
    assert (await run(shell(script), inputs="x" * 3_000_000)).result == "fine"


async def test_a_command_may_write_much_while_it_reads_much() -> None:
    text = "line\n" * 100_000
    answer = await run(CommandLLM("cat"), inputs=text)
    assert text in answer.result


async def test_an_exit_code_is_a_failure_that_shows_the_end_of_stderr() -> None:
    with pytest.raises(ModelError) as caught:
        await run(shell("echo out; head -c 100000 /dev/zero | tr '\\0' x >&2; echo no quota >&2; exit 3"))
    assert (caught.value.type, caught.value.retryable) == ("command_failed", True)
    assert caught.value.message.startswith("sh exited with code 3: xxx")
    assert caught.value.message.endswith("no quota")
    assert len(caught.value.message) < 2000


async def test_a_failure_without_stderr_shows_what_was_written_instead() -> None:
    with pytest.raises(ModelError, match="sh exited with code 1: not logged in"):
        await run(shell("echo not logged in; exit 1"))


async def test_a_command_killed_by_a_signal_says_which() -> None:
    with pytest.raises(ModelError, match="sh was killed by SIGKILL"):
        await run(shell("kill -9 $$"))


async def test_a_command_that_is_gone_by_now_is_a_failure(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    llm = CommandLLM(str(program))
    program.unlink()
    with pytest.raises(ModelError, match="agent does not start") as caught:
        await run(llm)
    assert (caught.value.type, caught.value.retryable) == ("command_not_started", True)


@pytest.mark.parametrize("script", ["no-such-program-anywhere", "/etc/hostname", "exit 127"])
async def test_a_script_whose_program_cannot_be_executed_has_not_started(script: str) -> None:
    with pytest.raises(ModelError) as caught:
        await run(shell(script))
    assert (caught.value.type, caught.value.retryable) == ("command_not_started", True)


async def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(ModelError, match="not UTF-8") as caught:
        await run(shell(r"printf 'caf\351'"))
    assert (caught.value.type, caught.value.retryable) == ("output_encoding", False)


async def test_an_endless_output_is_cut_off_and_its_command_stopped(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="more than 1,000,000 bytes") as caught:
        await run(shell(f"echo $$ > {tmp_path}/pid; exec yes"))
    assert (caught.value.type, caught.value.retryable) == ("output_too_large", False)
    assert is_gone(int((tmp_path / "pid").read_text()))


async def test_an_output_schema_asks_for_json() -> None:
    schema = {"type": "object", "required": ["n"]}
    assert (await run(shell("""printf '```json\n{"n": 1}\n```\n'"""), output_schema=schema)).result == {"n": 1}
    with pytest.raises(ModelError, match="'n' is a required property") as caught:
        await run(shell("echo '{}'"), output_schema=schema)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", True)


@pytest.mark.parametrize(
    "written",
    [
        r"\033]0;OpenCode\007{\"a\": 1}\n",
        r"\033[1m{\"a\": 1}\033[0m\n",
        r"10%%\r50%%\r100%%\r{\"a\": 1}\n",
        r"\033[?2004h{\"a\": 1}\n\033[?2004l",
        r"<think>\nlet me see {\"a\": 2}\n</think>\n{\"a\": 1}\n",
        r"Sure! Here is the JSON:\n{\"a\": 1}\n",
        r"~~~json\n{\"a\": 1}\n~~~\n",
        r"\140\140\140JSON5\n{\"a\": 1}\n\140\140\140\n",
        r"\140\140\140json\r\n{\"a\": 1}\r\n\140\140\140\r\n",
        r"\357\273\277{\"a\": 1}\n",
    ],
)
async def test_json_is_read_from_what_is_written_for_a_terminal(written: str) -> None:
    schema = {"type": "object", "required": ["a"]}
    assert (await run(shell(f'printf "{written}"'), output_schema=schema)).result == {"a": 1}


async def test_an_answer_that_could_be_one_of_two_is_none() -> None:
    fence = r"\140\140\140"
    fences = rf"Input:\n{fence}json\n{{\"a\": 0}}\n{fence}\nAnswer:\n{fence}json\n{{\"a\": 1}}\n{fence}\n"
    with pytest.raises(ModelError, match="not JSON"):
        await run(shell(f'printf "{fences}"'), output_schema={"type": "object"})


async def test_what_is_for_a_terminal_is_neither_shown_nor_kept() -> None:
    shown: list[str] = []
    code = (
        "import os, time\n"
        r"for piece in (b'\xef\xbb\xbf\x1b]0;ti', b'tle\x07one \x1b[3', b'1mtwo\x1b[0m\r', b'\nthree\r\n'):"
        "\n    os.write(1, piece); time.sleep(0.1)\n"
    )
    assert (await run(python(code), shown.append)).result == "one two\nthree"
    assert "".join(shown) == "one two\nthree\n"


async def test_why_a_command_failed_is_told_without_colours() -> None:
    with pytest.raises(ModelError, match=r"sh exited with code 1: not logged in$"):
        await run(shell(r"printf '\033[31mnot logged in\033[0m\n' >&2; exit 1"))


async def test_a_schema_that_is_none_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a JSON Schema"):
        await run(CommandLLM(f"touch {tmp_path}/ran"), output_schema={"type": "strnig"})
    assert not (tmp_path / "ran").exists()


async def test_stopping_a_job_ends_the_command_and_its_children() -> None:
    async with running(shell("sleep 600 & echo $$ $!; wait")) as (task, pids):
        assert len(pids) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: all(map(is_gone, pids)))


async def test_a_stopped_command_has_time_to_clean_up(tmp_path: Path) -> None:
    cleaning = f"trap 'echo done > {tmp_path}/cleaned; exit' TERM; echo $$; while :; do sleep 0.01; done"
    async with running(shell(cleaning)) as (task, pids):
        task.cancel()
        await asyncio.wait([task])
    assert (tmp_path / "cleaned").read_text() == "done\n"
    await until(lambda: all(map(is_gone, pids)))


async def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE", 0.2)
    stubborn = "trap '' TERM; while :; do sleep 0.01; done & echo $$ $!; wait"  # a child inherits what is ignored
    async with running(shell(stubborn)) as (task, pids):
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: all(map(is_gone, pids)))


async def test_who_stops_a_job_twice_does_not_wait_for_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "GRACE", 600)
    stubborn = f"trap 'touch {tmp_path}/asked' TERM; echo $$; while :; do sleep 0.01; done"
    async with running(shell(stubborn)) as (task, pids):
        task.cancel()
        await until((tmp_path / "asked").exists)
        assert not task.done()
        task.cancel()
        await asyncio.wait_for(asyncio.wait([task]), 10)
        await until(lambda: all(map(is_gone, pids)))


async def test_a_child_left_behind_holds_up_no_answer_and_is_stopped() -> None:
    answer = await run(shell("sleep 600 & echo $!"))
    await until(lambda: is_gone(int(answer.result)))


async def test_a_daemon_that_has_left_the_group_holds_up_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE", 0.2)
    code = "import subprocess\nprint(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)\n"
    answer = await run(python(code))
    daemon = int(answer.result)
    try:
        assert not is_gone(daemon)
    finally:
        os.kill(daemon, 9)


async def test_slots_run_at_the_same_time(tmp_path: Path) -> None:
    meet = f"touch {tmp_path}/$FLUFFLE_TASK_ID; while [ $(ls {tmp_path} | wc -l) -lt 2 ]; do sleep 0.01; done; echo met"
    llm = shell(meet)
    async with asyncio.timeout(20):
        both = await asyncio.gather(*(llm.run(Job(name, 1, "Meet."), lambda text: None) for name in ("a", "b")))
    assert [answer.result for answer in both] == ["met", "met"]


# -- the socket of its tools ---------------------------------------------------------------------------------------


class SomeTools:
    """A toolbox with a tool that nobody uses here."""

    tools = frozenset({"read"})


PRINT_SOCKET = """
import os, stat
path = os.environ.get("FLUFFLE_TOOLS")
print(path and stat.S_ISSOCK(os.stat(path).st_mode))
"""


async def with_tools(llm: CommandLLM) -> Any:
    """What it answers to a job for which it has tools."""
    return (await llm.run(Job("t-1", 1, "Say hello."), lambda text: None, cast(Toolbox, SomeTools()))).result


@pytest.mark.parametrize("length", [1, 95, 150])
async def test_the_tools_have_a_socket_however_long_the_path_of_the_temporary_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    folder = tmp_path / ("d" * max(1, length - len(str(tmp_path)) - 1))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert await with_tools(python(PRINT_SOCKET)) == "True"


async def test_a_command_without_a_place_for_a_socket_runs_without_tools_and_that_is_logged_at_its_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers.tools.socket.MAX_PATH_BYTES", 10)
    llm = python(PRINT_SOCKET)
    assert "cannot use `fluffle tool`: set TMPDIR to a folder with a short path" in caplog.text
    assert await with_tools(llm) == "None"
