"""Find the model for a name: its provider, its URL and its key."""

import inspect
import os
import re
from collections.abc import Callable
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai.models import Model, infer_model, parse_model_id
from pydantic_ai.providers import Provider, infer_provider_class

from broker.errors import ConfigurationError
from workers.models.provider.http_client import model_client

OLLAMA_URL = "http://127.0.0.1:11434/v1"


def find_model(name: str, base_url: str | None, *, option: str = "--model") -> Model:
    """Return the model with this `name` (`provider:model`), with its API key from the environment.

    With `base_url`, a name without a provider, or with `openai`, is a model of the OpenAI-compatible server at that
    URL (chat completions), which gets OPENAI_API_KEY if it is set. Another provider is called at that URL.
    Raises ConfigurationError, with the name of the option, for an unknown provider, a missing key or package.
    """
    if parse_model_id(name)[0] == "ollama":
        base_url = base_url or os.environ.get("OLLAMA_BASE_URL") or OLLAMA_URL
    try:
        return _without_tags(_found(name, base_url))
    except ImportError as error:
        raise ConfigurationError(f"{option} {name}: {error}") from error
    except exceptions.UserError as error:
        raise ConfigurationError(f"{option} {name}: {_advice(error.message)}") from error


def _found(name: str, base_url: str | None) -> Model:
    provider, model = parse_model_id(name)
    if base_url is None:
        if provider is None or not _is_provider(provider):
            return infer_model(name)  # which says how models are named
        return infer_model(name, lambda provider: _provider_at(provider, None))
    if provider in ("openai", "openai-chat"):
        return _openai_compatible(model, base_url)
    if provider is None or not _is_provider(provider):  # such as `qwen2.5:7b`, a name with a tag
        return _openai_compatible(name, base_url)
    return infer_model(name, lambda provider: _provider_at(provider, base_url))


def _without_tags(model: Model) -> Model:
    """Return the model without the thinking tags of pydantic-ai.

    pydantic-ai treats a piece of text `<think>` as the beginning of reasoning, also in the middle of an answer.
    """
    from pydantic_ai.models.openai import OpenAIChatModel

    if isinstance(model, OpenAIChatModel):
        model.profile = {**model.profile, "thinking_tags": ("\0<think>", "\0</think>")}
    return model


def _openai_compatible(model: str, base_url: str) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    key = os.environ.get("OPENAI_API_KEY")
    return OpenAIChatModel(
        model,
        provider=OpenAICompatibleProvider(
            "openai-compatible", base_url=base_url, api_key=key, http_client=model_client()
        ),
    )


def _is_provider(name: str) -> bool:
    try:
        infer_provider_class(name)
    except ValueError:
        return False
    except ImportError:
        return True
    return True


def _provider_at(name: str, base_url: str | None) -> Provider[Any]:
    """Return the provider, at that URL if given. The clients of OpenAI and Anthropic get our HTTP client."""
    provider: Callable[..., Provider[Any]] = infer_provider_class(name)
    options: dict[str, Any] = {} if base_url is None else {"base_url": base_url}
    taken = inspect.signature(provider).parameters
    if "http_client" in taken and taken.keys() & {"openai_client", "anthropic_client"}:
        options["http_client"] = model_client()
    if "base_url" in options and "base_url" not in taken:
        raise ConfigurationError(f"--base-url: the provider {name} takes none")
    return provider(**options)


def _advice(message: str) -> str:
    """Convert a message of pydantic-ai for programmers to one for users of the command line."""
    if missing := re.match(r"Set the `(\w+)` environment variable", message):
        return f"set the environment variable {missing[1]}"
    if message.startswith("Unknown model"):
        return (
            f"{message}. A model is named provider:model, such as openai:gpt-6-luna or ollama:llama3.2; "
            "with --base-url, any name that the server knows"
        )
    return message
