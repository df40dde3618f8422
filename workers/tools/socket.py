"""The tools of one attempt for a command that the worker runs: a Unix socket that only its user can open.

One request per connection, a line of JSON each way:

    {"tool": "delegate", "arguments": {"description": "Count the words", "assignee": "atlas"}}
    {"result": 117}    or    {"error": "there is no LLM named atlas; there are: boreas (review)"}

A client that closes the connection gives up what it has asked for.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call
from pydantic_core import to_json

from broker.protocol.primitives import MAX_BODY_BYTES, problems
from broker.protocol.task_requests import TOOLS
from workers.tools.toolbox import Toolbox, ToolError

SOCKET = "tools"
MOST_BYTES = 103
"""Of the path of a Unix socket, on the system that allows least (macOS); Linux allows 107."""

_PREFIX = "fluffle-"
_ADDED = len(f"/{_PREFIX}12345678/{SOCKET}")  # bytes of a path after the folder for temporary files


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tool: str
    arguments: dict[str, Any] = {}


def folder_for_sockets() -> str | None:
    """Where a socket can be: the folder for temporary files, or another one where the path of that is too long.

    None when there is no folder with a short path that may be written to.
    """
    places = (gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp")  # noqa: S108 - in it, a private folder
    for place in places:
        if place and len(os.fsencode(place)) + _ADDED <= MOST_BYTES and os.access(place, os.W_OK | os.X_OK):
            return place
    return None


@asynccontextmanager
async def tool_socket(toolbox: Toolbox) -> AsyncIterator[Path | None]:
    """Serve the toolbox; gives the path of the socket. What is under way at the end is cancelled.

    None where no folder can have a socket, see `folder_for_sockets`.
    """
    if (place := folder_for_sockets()) is None:
        yield None
        return
    under_way: set[asyncio.Task[None]] = set()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_serve(toolbox, reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    with TemporaryDirectory(prefix=_PREFIX, dir=place) as folder:  # nobody else may look into it
        path = Path(folder) / SOCKET
        server = await asyncio.start_unix_server(on_connection, path, limit=2 * MAX_BODY_BYTES)
        path.chmod(0o600)
        try:
            yield path
        finally:
            server.close()
            for task in list(under_way):
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _serve(toolbox: Toolbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            answer = await _answer(toolbox, reader)
            writer.write(to_json(answer) + b"\n")
            await writer.drain()
    finally:
        writer.close()


async def _answer(toolbox: Toolbox, reader: asyncio.StreamReader) -> dict[str, Any]:
    try:
        request = _Request.model_validate_json(await reader.readline())
        if request.tool not in TOOLS:
            return {"error": f"there is no tool {request.tool}; there are: {', '.join(TOOLS)}"}
        call = asyncio.ensure_future(validate_call(getattr(toolbox, request.tool))(**request.arguments))
        return {"result": await _unless_gone(call, reader)}
    except ToolError as error:
        return {"error": str(error)}
    except ValidationError as error:
        return {"error": "; ".join(map(str, problems(error)))}
    except ValueError as error:  # a line that is too long
        return {"error": str(error)}


async def _unless_gone(call: "asyncio.Future[Any]", reader: asyncio.StreamReader) -> Any:
    """The outcome of the call, which is cancelled when the other side closes the connection."""
    gone = asyncio.ensure_future(reader.read())
    try:
        await asyncio.wait((call, gone), return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            raise ConnectionResetError
        return call.result()
    finally:
        call.cancel()
        gone.cancel()
