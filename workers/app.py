"""Build a worker from plain arguments: the composition root of this room."""

import re
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from broker.amqp.url import user_of
from broker.errors import ConfigurationError
from broker.protocol.primitives import MAX_BODY_BYTES, Ability, Spill, problems
from broker.protocol.task_requests import Tool
from broker.protocol.worker_reports import SPILL_AFTER_SECONDS, Presence, Price
from broker.telemetry.open_tracing import tracing_for
from workers.models.protocols import LLM, Described, Properties
from workers.options import WorkerOptions
from workers.worker import Worker


def build_worker(
    *,
    url: str,
    name: str,
    llm: LLM,
    spool_dir: Path,
    slots: int = 1,
    skills: Mapping[str, float] | None = None,
    labels: Sequence[str] = (),
    description: str = "",
    instructions: str | None = None,
    timeout: float | None = None,
    groups: Sequence[str] = (),
    tools: Iterable[Tool] = (),
    heartbeat_interval: float = 5.0,
    max_body: int = MAX_BODY_BYTES,
    require_identity: bool = False,
    metrics_address: tuple[str, int] | None = None,
    traces: bool = False,
    limit: str | None = None,
    price: Price | None = None,
    reserve: bool = False,
    spill: Spill = "late",
    spill_after: float = SPILL_AFTER_SECONDS,
    context_window: int | None = None,
    abilities: Sequence[Ability] | None = None,
) -> Worker:
    """Return a worker that is ready to run. See WorkerOptions for the arguments.

    `skills` maps tags to levels from 0 to 1, `labels` are tags such as `local`, `description` is for people, and
    `traces` turns on OpenTelemetry. The other arguments are those of Presence; `limit`, `price`, `context_window` and
    `abilities` replace what the LLM knows itself. Raises ConfigurationError for an impossible argument.
    """
    known = llm.properties if isinstance(llm, Described) else Properties()
    try:
        presence = Presence(
            name=name,
            instance=new_instance_id(),
            model=llm.model[:200],
            skills=dict(skills or {}),
            labels=list(labels),
            slots=slots,
            description=description,
            limit=known.limit if limit is None else limit,
            price=known.price if price is None else price,
            reserve=reserve,
            spill=spill,
            spill_after=spill_after,
            context_window=known.context_window if context_window is None else context_window,
            abilities=known.abilities if abilities is None else list(abilities),
        )
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(str, problems(error)))) from error
    user = user_of(url)
    if require_identity and user not in (name, None):
        raise ConfigurationError(
            f"identity is required, and the user of the AMQP URL is {user}, not {name}: the coordinator would refuse "
            f"its reports. `fluffle broker grant llm {name}` creates the user"
        )
    options = WorkerOptions(
        url=url,
        presence=presence,
        spool_dir=spool_dir,
        instructions=instructions,
        timeout=timeout,
        groups=tuple(groups),
        tools=frozenset(tools),
        heartbeat_interval=heartbeat_interval,
        max_body=max_body,
        require_identity=require_identity,
        metrics_address=metrics_address,
        price=price,
    )
    tracing = tracing_for("fluffle-worker", wanted=traces)
    if tracing is None:
        return Worker(options, llm)
    from workers.telemetry.tracing import WorkerTracing

    return Worker(options, llm, tracing=WorkerTracing(tracing, name, llm.model))


def new_instance_id() -> str:
    """Return an id for one start of a worker: the name of the host, shortened, and eight random digits."""
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())[:24].strip("-")
    return f"{host or 'worker'}-{secrets.token_hex(4)}"
