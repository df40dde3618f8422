"""What the liveness probe concludes from echoes."""

from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.envelope import Delivery, Outgoing, Properties
from broker.protocol.topology import ECHO, STATUS
from broker.timestamps import Micros, seconds
from coordinator.inbound.liveness import LivenessProbe, is_echo

LEASE = 12.0
PROMPT = LEASE / 6


def at(moment: float) -> Micros:
    return seconds(moment)


def asked(liveness: LivenessProbe, moment: float) -> Outgoing:
    return liveness.ask(at(moment))


def test_nothing_is_known_before_the_first_echo() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    assert liveness.until is None
    assert not liveness.take_outage()


def test_everything_before_an_echo_is_handled_once_the_echo_is() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    echo = asked(liveness, 100)
    liveness.answered(echo.correlation_id, at(100.1))
    assert liveness.until is None
    liveness.handled(echo.correlation_id)
    assert liveness.until == at(100)
    assert not liveness.take_outage()


def test_an_echo_takes_the_route_of_a_heartbeat() -> None:
    echo = asked(LivenessProbe(seconds(LEASE)), 0)
    assert (echo.exchange, echo.routing_key, echo.mandatory) == (STATUS, "coordinator.echo", True)


def test_an_echo_that_rabbitmq_confirmed_at_once_may_wait_in_the_inbox() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    echo = asked(liveness, 100)
    liveness.answered(echo.correlation_id, at(100 + PROMPT))
    liveness.answered(echo.correlation_id, at(200))
    liveness.handled(echo.correlation_id)
    assert liveness.until == at(100)


def test_a_slow_reaction_to_an_echo_is_an_outage() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    echo = asked(liveness, 100)
    liveness.answered(echo.correlation_id, at(100.1 + PROMPT))
    liveness.handled(echo.correlation_id)
    assert liveness.until is None
    assert liveness.take_outage()
    assert not liveness.take_outage(), "each outage is reported once"


def test_a_refused_echo_is_an_outage() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    liveness.refused(asked(liveness, 100).correlation_id)
    assert liveness.take_outage()
    assert liveness.is_time_to_ask(at(100.1))


def test_a_lost_connection_is_an_outage() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    liveness.was_away()
    assert liveness.take_outage()


def test_one_echo_is_pending_unless_it_takes_longer_than_a_lease() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    assert liveness.is_time_to_ask(at(100))
    first = asked(liveness, 100)
    assert not liveness.is_time_to_ask(at(100 + LEASE))
    assert liveness.is_time_to_ask(at(100.1 + LEASE))
    second = asked(liveness, 113)
    assert not liveness.is_time_to_ask(at(114))
    for echo in (first, second):
        liveness.answered(echo.correlation_id, at(113.1))
    liveness.handled(second.correlation_id)
    assert liveness.until == at(113)


def test_a_withdrawn_echo_proves_nothing() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    echo = asked(liveness, 100)
    liveness.withdraw(echo.correlation_id)
    liveness.handled(echo.correlation_id)
    assert liveness.until is None
    assert not liveness.take_outage()
    assert liveness.is_time_to_ask(at(100.1))


def test_a_forged_echo_changes_nothing() -> None:
    liveness = LivenessProbe(seconds(LEASE))
    for token in ("forged", None):
        liveness.answered(token, at(1))
        liveness.handled(token)
    assert liveness.until is None
    assert not liveness.take_outage()


def test_an_echo_differs_from_reports_of_workers() -> None:
    def delivery(exchange: str, key: str) -> Delivery:
        return Delivery(exchange, key, b"{}", False, Properties(), 1, AckBatcher.__new__(AckBatcher))

    assert is_echo(delivery(STATUS, ECHO))
    assert not is_echo(delivery(STATUS, "atlas.beat"))
    assert not is_echo(delivery("fluffle.tasks", ECHO))
