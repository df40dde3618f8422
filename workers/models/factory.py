"""Build the LLM of a worker from its options."""

import logging
from collections.abc import Collection, Mapping, Sequence

from broker.errors import ConfigurationError
from broker.protocol.worker_reports import Price
from workers.models.base import STALL_TIMEOUT_SECONDS
from workers.models.protocols import LLM, Checkable

DEMO = "demo"

MODEL_TIMEOUT = 1800.0
"""Seconds that an attempt of a model may take if neither its task nor its worker has a timeout."""

MOST_FALLBACK_MODELS = 15  # a usage has room for 16 models

_log = logging.getLogger(__name__)


def build_llm(
    *,
    model: str | None,
    base_url: str | None,
    exec_command: str | None,
    handler: str | None,
    env: Collection[str] | None = None,
    stall_timeout: float = STALL_TIMEOUT_SECONDS,
    fallback: Sequence[str] = (),
    prices: Mapping[str, Price] | None = None,
) -> LLM:
    """Return the LLM for exactly one of `model` (`demo`, or a name of pydantic-ai), `exec_command` and `handler`.

    `base_url`, `stall_timeout`, in seconds, and `fallback`, the names of other models, are for a model only; `env`,
    the names of the variables that it gets, is for a command only. `prices` are the prices that the user gave, by name
    of a model; that of the LLM has an empty name. Raises ConfigurationError for every mistake that can be found before
    the first task. Only the libraries of this kind of LLM are imported.
    """
    given = [
        option for option, value in (("--model", model), ("--exec", exec_command), ("--handler", handler)) if value
    ]
    if len(given) != 1:
        what = " and ".join(given) if given else "none of them"
        raise ConfigurationError(f"an LLM needs exactly one of --model, --exec and --handler; got {what}")
    if base_url and (not model or model == DEMO):
        raise ConfigurationError("--base-url goes with a --model of a provider")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise ConfigurationError(f"--base-url must start with http:// or https://, got {base_url!r}")
    if fallback and (not model or model == DEMO):
        raise ConfigurationError("--fallback goes with a --model of a provider")
    if len({model, *fallback}) <= len(fallback):
        raise ConfigurationError("--fallback: every model can be named once")
    if len(fallback) > MOST_FALLBACK_MODELS:
        raise ConfigurationError(f"--fallback: at most {MOST_FALLBACK_MODELS} models")
    if DEMO in fallback:
        raise ConfigurationError("--fallback: the demo model cannot take over from a model of a provider")
    if unknown := sorted((prices or {}).keys() - {"", model, *fallback}):
        raise ConfigurationError(f"--price: {unknown[0]} is not one of the models of this LLM")
    if env is not None and not exec_command:
        raise ConfigurationError("--env goes with --exec")
    if exec_command:
        from workers.models.command import CommandLLM

        return CommandLLM(exec_command, env=env)
    if handler:
        from workers.models.handler import HandlerLLM

        return HandlerLLM(handler)
    if model == DEMO:
        from workers.models.demo.llm import DemoLLM

        return DemoLLM()
    return _provider_llm(str(model), base_url, stall_timeout, fallback, prices or {})


def price_of_runs(model: str | None, prices: Mapping[str, Price]) -> Price | None:
    """Return the price given for an LLM that does not compute its cost itself: any but a model of a provider."""
    return prices.get(model or "", prices.get("")) if model in (None, DEMO) else None


async def warn_of_trouble(name: str, llm: LLM) -> None:
    """Log why the LLM `name` would not answer now, if that can be checked at once and without cost."""
    if not isinstance(llm, Checkable):
        return
    try:
        trouble = await llm.trouble()
    except Exception:  # the check is optional: the tasks will show the error
        _log.debug("%s: the model cannot be checked", name, exc_info=True)
        return
    if trouble is not None:
        _log.warning("%s: %s", name, trouble)


def _provider_llm(
    model: str, base_url: str | None, stall_timeout: float, fallback: Sequence[str], prices: Mapping[str, Price]
) -> LLM:
    try:
        import pydantic_ai  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"--model {model} needs pydantic-ai: pip install 'fluffle[llm]'") from error
    from workers.models.provider.find_model import find_model
    from workers.models.provider.llm import PydanticAILLM
    from workers.models.provider.retries import ServedModel

    return PydanticAILLM(
        model,
        find_model(model, base_url),
        price=prices.get(model, prices.get("")),
        fallback=[
            ServedModel.of(name, find_model(name, None, option="--fallback"), prices.get(name)) for name in fallback
        ],
        stall_timeout=stall_timeout,
    )
