"""Administrator access to RabbitMQ: `rabbitmqctl` on the private node, the management API elsewhere."""

import json
from base64 import b64encode
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

from broker.access.users import Administration, Definitions
from broker.amqp.url import split_off_tls, split_url, tls_context
from broker.errors import AccessRefused, BrokerError, BrokerUnreachable, ConfigurationError
from broker.node.locate import amqp_url
from broker.node.private_node import PrivateNode
from broker.settings import Settings

_TIMEOUT_SECONDS = 30.0


def administration(settings: Settings) -> Administration:
    """Return administrator access to the RabbitMQ of the settings. Raises ConfigurationError, NodeError."""
    node = PrivateNode(settings.state_dir)
    url = amqp_url(settings)
    if node.is_at(url):
        return NodeControl(node)
    return ManagementApi(url, None if settings.management_url is None else settings.management_url.get_secret_value())


class NodeControl:
    """Administrator access to the private node with `rabbitmqctl`."""

    def __init__(self, node: PrivateNode) -> None:
        self._node = node

    def definitions(self) -> Definitions:
        """Return RabbitMQ's definitions. Raises NodeError."""
        found: Definitions = json.loads(self._node.control("export_definitions", "-", "--silent"))
        return found

    def define(self, definitions: Definitions) -> None:
        """Create or replace the given definitions. Raises NodeError."""
        self._node.control("import_definitions", "--silent", given=json.dumps(definitions))

    def delete_user(self, name: str) -> None:
        """Remove a user. Raises NodeError."""
        self._node.control("delete_user", name, "--silent")


class ManagementApi:
    """Administrator access by the plugin rabbitmq_management, as the user of the API's URL or of the AMQP URL."""

    def __init__(self, amqp: str, url: str | None) -> None:
        """`url` is the API's URL, `http://user:password@host:port`; None: the default port on the AMQP host.

        Raises ConfigurationError for another form of URL.
        """
        broker = split_url(amqp)
        secure = broker.scheme == "amqps"
        own = split_url(
            url or f"{'https' if secure else 'http'}://{_host(amqp)}:{15671 if secure else 15672}",
            what="FLUFFLE_MANAGEMENT_URL",
            schemes=("http", "https"),
            form="http://user:password@host:15672",
        )
        if not own.hostname:
            raise ConfigurationError("FLUFFLE_MANAGEMENT_URL names no host; it must be like http://host:15672")
        user = own if own.username else broker
        credentials = f"{unquote(user.username or 'guest')}:{unquote(user.password or 'guest')}"
        self._authorization = "Basic " + b64encode(credentials.encode()).decode()
        self._base = f"{own.scheme}://{own.netloc.rpartition('@')[2]}{own.path.rstrip('/')}"
        self._tls = tls_context(split_off_tls(amqp)[1]) if own.scheme == "https" else None

    def definitions(self) -> Definitions:
        """Return RabbitMQ's definitions. Raises BrokerError."""
        found: Definitions = self._ask("GET", "definitions")
        return found

    def define(self, definitions: Definitions) -> None:
        """Create or replace the given definitions. Raises BrokerError."""
        self._ask("POST", "definitions", definitions)

    def delete_user(self, name: str) -> None:
        """Remove a user. Raises BrokerError."""
        self._ask("DELETE", f"users/{quote(name, safe='')}")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        request = Request(  # noqa: S310 - only http and https get here
            f"{self._base}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=_TIMEOUT_SECONDS, context=self._tls) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            if error.code in (401, 403):
                raise AccessRefused(
                    f"RabbitMQ's management API at {self._base} refused the user: the user must be an administrator"
                ) from error
            raise BrokerError(f"RabbitMQ's management API at {self._base} said: {_said(error)}") from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise BrokerUnreachable(
                f"RabbitMQ's management API does not answer at {self._base} ({why}): enable the plugin "
                "rabbitmq_management there, or set FLUFFLE_MANAGEMENT_URL"
            ) from error


def _host(amqp: str) -> str:
    host = split_url(amqp).hostname or "localhost"
    return f"[{host}]" if ":" in host else host


def _said(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["reason"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"
