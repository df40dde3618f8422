"""RabbitMQ users with exactly the rights of their roles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pika.exceptions import AMQPError

from broker.access import users
from broker.access.admin_api import administration
from broker.access.roles import Role, owned, user_name
from broker.amqp.robust_connection import RobustConnection
from broker.amqp.url import of_user, vhost
from broker.protocol.topology import SHARED
from broker.settings import load_settings
from tests.support.amqp import Amqp
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell


class RoleUsers:
    """Grants on a broker. `operator` runs commands as its administrator; `url_of` maps users to their AMQP URLs."""

    def __init__(self, rabbitmq: NodeInfo, folder: Path) -> None:
        if not rabbitmq.settings:
            pytest.skip("this broker is not ours to administrate")
        self.operator = Shell(rabbitmq.url, folder)
        self.operator.environment.update(rabbitmq.settings)
        self.url_of: dict[str, str] = {}
        self._url = rabbitmq.url
        own = {name.removeprefix("FLUFFLE_").lower(): value for name, value in rabbitmq.settings.items()}
        given = {"amqp_url": rabbitmq.url, "state_dir": folder, **own}
        self._users = administration(load_settings(given))

    def grant(self, role: Role, name: str | None = None) -> None:
        """Create a user, or change its password."""
        user = user_name(role, name)
        password = users.grant(self._users, vhost(self._url), role, user, with_password=True, renew=True)
        assert password is not None
        self.url_of[user] = of_user(self._url, user, password)

    async def declare(self) -> None:
        """Declare the queues that the users may not declare themselves."""
        async with RobustConnection(self._url, name="test") as link:
            await link.declare(SHARED)
            for user in users.users(self._users, vhost(self._url)):
                await link.declare(owned(user.role, user.name))

    def password_of(self, user: str) -> str:
        """Its password."""
        password = urlsplit(self.url_of[user]).password
        assert password is not None
        return password

    @contextmanager
    def clients(self) -> Iterator[Callable[[str], Amqp]]:
        """Return a function that connects a plain AMQP client for any of the users; the block ends the connections."""
        connected: list[Amqp] = []

        def connect(user: str) -> Amqp:
            connected.append(Amqp(self.url_of[user]))
            return connected[-1]

        try:
            yield connect
        finally:
            for client in connected:
                with suppress(AMQPError):
                    client.close()
