"""From the options of a worker to the LLM that it runs."""

from broker.errors import ConfigurationError
from workers.models.base import LLM

DEMO = "demo"


def build_llm(*, model: str | None, base_url: str | None, exec_command: str | None, handler: str | None) -> LLM:
    """The LLM for exactly one of `model` (`demo`, or as pydantic-ai names it), `exec_command` and `handler`.

    `base_url` is for a model only. Whatever can be found wrong before the first task raises ConfigurationError here.
    Only the chosen way's libraries are imported.
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
    if exec_command:
        from workers.models.command import CommandLLM

        return CommandLLM(exec_command)
    if handler:
        from workers.models.handler import HandlerLLM

        return HandlerLLM(handler)
    if model == DEMO:
        from workers.models.demo import DemoLLM

        return DemoLLM()
    return _provider_llm(str(model), base_url)


def _provider_llm(model: str, base_url: str | None) -> LLM:
    try:
        import pydantic_ai  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"--model {model} needs pydantic-ai: pip install 'fluffle[llm]'") from error
    from workers.models.providers import find_model
    from workers.models.pydantic_ai import PydanticAILLM

    return PydanticAILLM(model, find_model(model, base_url))
