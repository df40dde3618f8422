"""Find the RabbitMQ to connect to."""

from broker.amqp.url import completed
from broker.errors import ConfigurationError
from broker.node.private_node import running_url
from broker.settings import Settings


def amqp_url(settings: Settings) -> str:
    """The AMQP URL, with password: that of the settings, else of the private node, which is restarted if it crashed.

    Raises ConfigurationError when there is neither, NodeError when the private node does not come back.
    """
    if settings.amqp_url is not None:
        password = None if settings.amqp_password is None else settings.amqp_password.get_secret_value()
        return completed(settings.amqp_url.get_secret_value(), password=password, parameters=settings.tls_parameters)
    url = running_url(settings.state_dir)
    if url is None:
        raise ConfigurationError(
            "no RabbitMQ is configured: start a private one with `fluffle broker start`, or set FLUFFLE_AMQP_URL"
        )
    return url
