"""The private names of pika that the connection overrides or uses."""

import asyncio
import inspect
import logging
from typing import Any

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncSSLTransport, _AsyncTransportBase

from broker.amqp.pika_connection import _PikaConnection, connect
from tests.support.processes import ROOT

OVERRIDDEN = (
    "_on_data_available",
    "_output_marshaled_frames",
    "_proto_connection_made",
    "_on_connection_workflow_done",
)
CALLED = ("_process_frame", "_adapter_emit_data", "_adapter_disconnect_stream")
ATTRIBUTES = ("_frame_buffer", "_transport", "bytes_received", "bytes_sent", "frames_sent")


def parameters_of(method: object) -> list[tuple[str, object]]:
    """The names of a method's parameters with their kinds."""
    return [(it.name, it.kind) for it in inspect.signature(method).parameters.values()]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_has_the_parameters_of_pikas_method(name: str) -> None:
    own, pikas = getattr(_PikaConnection, name), getattr(AsyncioConnection, name)
    assert own is not pikas
    assert parameters_of(own) == parameters_of(pikas)


def test_every_overridden_private_method_is_listed_here() -> None:
    own = {name for name in vars(_PikaConnection) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in own if callable(getattr(AsyncioConnection, name, None))} == set(OVERRIDDEN)


@pytest.mark.parametrize("name", CALLED)
def test_a_private_method_that_is_called_exists_in_pika(name: str) -> None:
    assert callable(getattr(AsyncioConnection, name))


async def test_the_attributes_that_are_used_exist_in_pikas_connection() -> None:
    connection = AsyncioConnection(
        pika.ConnectionParameters(), custom_ioloop=asyncio.get_running_loop(), internal_connection_workflow=False
    )
    assert [name for name in ATTRIBUTES if not hasattr(connection, name)] == []


def test_pika_sets_the_size_of_a_body_frame_when_the_connection_is_tuned() -> None:
    assert "self._body_max_length =" in inspect.getsource(AsyncioConnection._on_connection_tune)


@pytest.mark.parametrize("transport", [_AsyncPlaintextTransport, _AsyncSSLTransport])
def test_pikas_transports_have_the_private_names_that_are_used(transport: Any) -> None:
    assert parameters_of(transport._on_socket_writable) == [("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    assert isinstance(transport._MAX_RECV_BYTES, int)
    assert "self._MAX_RECV_BYTES" in inspect.getsource(_AsyncTransportBase)


def test_no_other_file_uses_pika() -> None:
    files = [path for room in ("broker", "coordinator", "fluffle", "workers") for path in (ROOT / room).rglob("*.py")]
    uses = {
        str(path.relative_to(ROOT))
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if "basic_" in line or "queue_declare" in line or line.lstrip().startswith(("import pika", "from pika"))
    }
    assert uses == {"broker/amqp/pika_connection.py"}


async def test_a_level_that_the_program_has_set_for_pikas_log_stays() -> None:
    log, before = logging.getLogger("pika"), logging.getLogger("pika").level
    try:
        for given, expected in ((logging.DEBUG, logging.DEBUG), (logging.NOTSET, logging.CRITICAL)):
            log.setLevel(given)
            connect(
                pika.ConnectionParameters("127.0.0.1", 1, connection_attempts=1),
                user=None,
                on_open=lambda: None,
                on_open_error=lambda error: None,
                on_closed=lambda connection, error: None,
                on_blocked=lambda reason: None,
            ).drop()
            assert log.level == expected
    finally:
        log.setLevel(before)
