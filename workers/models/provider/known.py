"""What is known of a model before its first request: its price, its context window and its abilities.

Prices and context windows are those of genai-prices, looked up by the provider and the name that the provider knows.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo
from pydantic import ValidationError
from pydantic_ai import ModelResponse
from pydantic_ai.models import Model, parse_model_id

from broker.protocol.primitives import Ability
from broker.protocol.worker_reports import Price
from workers.models.provider.limit_key import base_url_of

_ANY_SERVER = {"openai", "openai-chat", "openai-responses", "openai-compatible"}  # servers of many speak this protocol
_PRIVATE_DOMAINS = (".local", ".internal", ".lan", ".localdomain", ".home.arpa")

_Reference = tuple[str | None, str | None]
"""The ID of a provider, or the URL of its server; the other one is None."""


class KnownModel:
    """Looks up a model. `name` is the one that was given to the worker, such as `openai:gpt-6-luna`.

    A model of a server with the protocol of OpenAI has OpenAI's price if it was named as one of OpenAI's and the
    server is not in a private network. Without that, a local model named like an old one would have its price.
    """

    def __init__(self, name: str, model: Model) -> None:
        self._model_name = model.model_name
        self._profile = model.profile
        self._references = list(_references(name, model))

    @property
    def price(self) -> Price | None:
        """The price at present, before surcharges for long prompts; None if it is unknown."""
        if (found := self._found()) is None:
            return None
        prices = found.get_prices(datetime.now(UTC))
        figures = {
            "input": _figure(prices.input_mtok),
            "output": _figure(prices.output_mtok),
            "cached_input": _figure(prices.cache_read_mtok),
            "cache_write": _figure(prices.cache_write_mtok),
        }
        if figures["input"] is None or figures["output"] is None:
            return None
        try:
            return Price.model_validate(figures)
        except ValidationError:
            return None

    @property
    def context_window(self) -> int | None:
        """The most tokens of a prompt and its answer; None if unknown."""
        found = self._found()
        return found.context_window if found is not None and (found.context_window or 0) > 0 else None

    @property
    def abilities(self) -> list[Ability] | None:
        """What the model can do besides text; None for a model that is not in the lists: its profile says too little.

        Every model can be asked for an answer with a schema.
        """
        if self._found() is None:
            return None
        abilities: list[Ability] = ["schema"]
        if self._profile.get("supports_tools", True):
            abilities.append("tools")
        if self._profile.get("supports_image_input", True):
            abilities.append("pictures")
        return sorted(abilities)

    def cost(self, response: ModelResponse) -> float | None:
        """Return the cost of a response in US dollars; None if the price is unknown."""
        if response.usage.cost is not None:  # a gateway said it
            return float(response.usage.cost)
        for reference in self._references:
            with suppress(Exception):  # of many classes: an unknown model, or figures that contradict each other
                return float(self._price_of(response, *reference))
        return None

    def _price_of(self, response: ModelResponse, provider: str | None, url: str | None) -> Decimal:
        name = response.model_name or self._model_name
        calculated = get_snapshot().calc(
            response.usage, name, provider, url, response.timestamp, response.provider_details
        )
        return calculated.total_price

    def _found(self) -> ModelInfo | None:
        for provider, url in self._references:
            try:
                return get_snapshot().find_provider_model(self._model_name, None, provider, url)[1]
            except LookupError:
                continue
        return None


def is_private(url: str) -> bool:
    """Return whether the host of a URL is this machine, or one in a private network."""
    try:
        host = (urlsplit(url).hostname or "").lower()
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_DOMAINS)


def _references(name: str, model: Model) -> Iterator[_Reference]:
    """Yield how to look up the provider, the most reliable way first."""
    url, provider = base_url_of(model), model.system
    if url is not None:
        yield None, url
    if provider in _ANY_SERVER:
        if url is not None and not is_private(url) and parse_model_id(name)[0] in _ANY_SERVER:
            yield "openai", None
    elif provider:
        yield provider, None


def _figure(value: Any) -> float | None:
    """Return a price per million tokens as a number; that of the lowest tier, if there are several."""
    base = getattr(value, "base", value)
    return None if base is None else float(base)
