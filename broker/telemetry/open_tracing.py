"""Start tracing where it is wanted, without an import of OpenTelemetry where it is not."""

from typing import TYPE_CHECKING

from broker.errors import ConfigurationError

if TYPE_CHECKING:
    from broker.telemetry.tracing import Tracing


def tracing_for(service: str, *, wanted: bool) -> "Tracing | None":
    """Return the tracing of a program; None unless wanted. Raises ConfigurationError without OpenTelemetry."""
    if not wanted:
        return None
    try:
        from broker.telemetry.tracing import Tracing
    except ImportError as error:
        raise ConfigurationError("traces need OpenTelemetry: pip install 'fluffle[telemetry]'") from error
    return Tracing(service)
