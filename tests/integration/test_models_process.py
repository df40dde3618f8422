"""What a process that runs an LLM loads, keeps and leaves."""

import os
import subprocess
import sys

BUILD = """
from workers.models.factory import build_llm
llm = build_llm(model={model!r}, base_url=None, exec_command={command!r}, handler={handler!r})
"""


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_only_a_model_of_a_provider_loads_pydantic_ai() -> None:
    loaded = "import sys; print('pydantic_ai' in sys.modules, 'jsonschema' in sys.modules)"
    assert python(BUILD.format(model="demo", command=None, handler=None) + loaded) == "False False"
    assert python(BUILD.format(model=None, command="cat", handler=None) + loaded) == "False False"
    assert python(BUILD.format(model=None, command=None, handler="json:dumps") + loaded) == "False False"
    assert python(BUILD.format(model="ollama:x", command=None, handler=None) + loaded).startswith("True")


def test_a_demo_model_leaves_most_of_60_megabytes_to_the_worker() -> None:
    work = """
import asyncio, psutil
from workers.models.base import Job
asyncio.run(llm.run(Job("t", 1, "d", inputs="One fox. " * 1000), lambda text: None))
print(psutil.Process().memory_info().rss // 1_000_000)
"""
    assert int(python(BUILD.format(model="demo", command=None, handler=None) + work)) < 50


def test_a_text_has_the_same_summary_in_every_process() -> None:
    work = """
import asyncio
from workers.models.base import Job
text = " ".join(f"The {a} sees the {b}." for a in ("fox", "owl", "cow", "hen") for b in ("fox", "owl", "cow", "hen"))
print(asyncio.run(llm.run(Job("t", 1, "d", inputs=text), lambda text: None)).result)
"""
    code = BUILD.format(model="demo", command=None, handler=None) + work
    assert len({python(code, PYTHONHASHSEED=seed) for seed in ("1", "2", "3")}) == 1


def test_a_sync_handler_that_never_returns_does_not_keep_its_process() -> None:
    code = """
import asyncio, threading
from workers.models.base import Job
from workers.models.handler import HandlerLLM

started = threading.Event()

def stuck(job):
    started.set()
    threading.Event().wait()

async def main():
    task = asyncio.create_task(HandlerLLM("__main__:stuck").run(Job("t", 1, "d"), lambda text: None))
    await asyncio.to_thread(started.wait)
    task.cancel()
    await asyncio.wait([task])
    print("left")

asyncio.run(main())
"""
    assert python(code) == "left"
