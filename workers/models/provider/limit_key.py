"""The default name of the rate limit that a model shares with every other model of the same account."""

import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pydantic_ai import exceptions
from pydantic_ai.models import Model

_SALT = b"fluffle.limit"  # fixed, so that all hosts compute the same name; at most 16 bytes
_DIGITS = 8
_KEY_ATTRIBUTES = ("api_key", "_api_key", "auth_token", "token")


def limit_key(model: Model) -> str:
    """Return `<provider>-<8 hexadecimal digits>`: a salted hash of provider, base URL and API key.

    The server at a loopback address is another one on each host, so the name of the host counts, too.
    """
    provider = re.sub(r"[^a-z0-9._+-]+", "-", model.system.lower()).strip("-._+")[:50] or "model"
    url = (base_url_of(model) or "").rstrip("/")
    where = f"{socket.gethostname()} {url}" if is_loopback(url) else url
    text = "\0".join((provider, where, _api_key(model)))
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=_DIGITS // 2, salt=_SALT).hexdigest()
    return f"{provider}-{digest}"


def base_url_of(model: Model) -> str | None:
    """Return the URL of the server of the model, if it has one."""
    try:
        url = model.base_url
    except (AttributeError, exceptions.UserError):
        return None
    return str(url) if url else None


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is this machine by each name of it."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _api_key(model: Model) -> str:
    client: Any = getattr(model, "client", None)
    for holder in _holders(client):
        for name in _KEY_ATTRIBUTES:
            if isinstance(key := getattr(holder, name, None), str) and key:
                return key
    return os.environ.get(f"{re.sub(r'[^A-Z0-9]+', '_', model.system.upper())}_API_KEY", "")


def _holders(client: Any) -> Iterator[Any]:
    """Yield the objects in which the clients of providers keep their keys."""
    yield client
    yield getattr(client, "_api_client", None)  # google-genai
    yield getattr(getattr(client, "sdk_configuration", None), "security", None)  # mistralai
