"""The connection of a client, and the settings that it reads when it connects."""

import asyncio
import getpass
import re
from typing import TYPE_CHECKING, Any, Self

from broker.amqp.url import user_of
from broker.errors import ConfigurationError
from broker.protocol.topology import user_address
from broker.telemetry.open_tracing import tracing_for
from fluffle.client.requests import RequestClient

if TYPE_CHECKING:
    from broker.settings import Settings
    from broker.telemetry.tracing import Tracing


class ConnectedClient:
    """A connection to RabbitMQ with a reply queue. Its settings are read when it connects, and only then."""

    def __init__(self, url: str | None, *, name: str, answer_timeout: float, user: str | None) -> None:
        self._given_url = url
        self._given_user = user
        self._name = name
        self._answer_timeout = answer_timeout
        self._opened: RequestClient | None = None
        self._url_in_use: str | None = None
        self._settings_in_use: Settings | None = None
        self._tracing: Tracing | None = None

    async def __aenter__(self) -> Self:
        from broker.settings import load_settings

        settings = self._settings_in_use = load_settings()
        url = self._url_in_use = self._given_url or _default_url(settings)
        self._tracing = tracing_for("fluffle-client", wanted=settings.traces)
        tracing = None
        if self._tracing is not None:
            from fluffle.client.tracing import ClientTracing

            tracing = ClientTracing(self._tracing)
        request_client = RequestClient(url, self._name, self._answer_timeout, tracing)
        self._opened = await request_client.__aenter__()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._request_client.__aexit__(*reason)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    @property
    def connected(self) -> bool:
        """Whether the client is connected to RabbitMQ at the moment."""
        return self._request_client.connected

    @property
    def blocked(self) -> str | None:
        """Why RabbitMQ accepts no messages at the moment, such as `low on disk`; None when no reason is known.

        Messages that the client sends meanwhile wait.
        """
        return self._request_client.link.blocked

    @property
    def address(self) -> str:
        """The address that sends and receives the messages of this client: `user.<name>`.

        Raises ConfigurationError when no name is given and the login name is none.
        """
        user = self._given_user
        if not user and self._settings.require_identity:
            user = user_of(self._url)
        return user_address(user or self._settings.user or _login_name())

    @property
    def _request_client(self) -> RequestClient:
        assert self._opened is not None, "use the client inside `async with`"
        return self._opened

    @property
    def _settings(self) -> "Settings":
        assert self._settings_in_use is not None, "use the client inside `async with`"
        return self._settings_in_use

    @property
    def _url(self) -> str:
        assert self._url_in_use is not None, "use the client inside `async with`"
        return self._url_in_use


def is_identity_required() -> bool:
    """Return the setting FLUFFLE_REQUIRE_IDENTITY: messages count only from the RabbitMQ user that they name."""
    from broker.settings import load_settings

    return load_settings().require_identity


def _default_url(settings: "Settings") -> str:
    from broker.node.locate import amqp_url

    return amqp_url(settings)


def _login_name() -> str:
    """Return the login name in the letters of a user name. Raises ConfigurationError when there is none."""
    try:
        login = getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise ConfigurationError("there is no login name: set FLUFFLE_USER to your user name") from error
    legal = re.sub(r"[^a-z0-9]+", "-", login.lower()).strip("-")[:63]
    if not legal:
        raise ConfigurationError(f"the login name {login!r} has no letter of a-z and no digit: set FLUFFLE_USER")
    return legal
