"""What a coordinator knows to have heard."""

from broker.amqp.pika_connection import AckBatcher, Delivery, Outgoing, Properties
from broker.protocol.topology import ECHO, STATUS
from broker.timestamps import Micros, seconds
from coordinator.inbound.hearing import LivenessProbe, is_echo

LEASE = 12.0
PROMPT = LEASE / 6


def at(moment: float) -> Micros:
    return seconds(moment)


def asked(hearing: LivenessProbe, moment: float) -> Outgoing:
    return hearing.ask(at(moment))


def test_nothing_is_known_to_be_heard_before_the_first_echo() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    assert hearing.until is None
    assert not hearing.take_outage()


def test_what_was_said_before_an_echo_is_heard_when_the_echo_is_handled() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    echo = asked(hearing, 100)
    hearing.answered(echo.correlation_id, at(100.1))
    assert hearing.until is None
    hearing.handled(echo.correlation_id)
    assert hearing.until == at(100)
    assert not hearing.take_outage()


def test_an_echo_takes_the_way_of_a_beat() -> None:
    echo = asked(LivenessProbe(seconds(LEASE)), 0)
    assert (echo.exchange, echo.routing_key, echo.mandatory) == (STATUS, "coordinator.echo", True)


def test_an_echo_may_wait_in_the_inbox_as_long_as_rabbitmq_has_confirmed_it_at_once() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    echo = asked(hearing, 100)
    hearing.answered(echo.correlation_id, at(100 + PROMPT))
    hearing.answered(echo.correlation_id, at(200))
    hearing.handled(echo.correlation_id)
    assert hearing.until == at(100)


def test_a_rabbitmq_that_takes_long_to_react_was_away() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    echo = asked(hearing, 100)
    hearing.answered(echo.correlation_id, at(100.1 + PROMPT))
    hearing.handled(echo.correlation_id)
    assert hearing.until is None
    assert hearing.take_outage()
    assert not hearing.take_outage(), "it is told once"


def test_a_rabbitmq_that_does_not_take_an_echo_was_away() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    hearing.refused(asked(hearing, 100).correlation_id)
    assert hearing.take_outage()
    assert hearing.is_time_to_ask(at(100.1))


def test_a_lost_connection_is_an_outage() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    hearing.was_away()
    assert hearing.take_outage()


def test_one_echo_is_under_way_unless_it_takes_longer_than_a_lease() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    assert hearing.is_time_to_ask(at(100))
    first = asked(hearing, 100)
    assert not hearing.is_time_to_ask(at(100 + LEASE))
    assert hearing.is_time_to_ask(at(100.1 + LEASE))
    second = asked(hearing, 113)
    assert not hearing.is_time_to_ask(at(114))
    for echo in (first, second):
        hearing.answered(echo.correlation_id, at(113.1))
    hearing.handled(second.correlation_id)
    assert hearing.until == at(113)


def test_an_echo_that_is_withdrawn_proves_nothing() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    echo = asked(hearing, 100)
    hearing.withdraw(echo.correlation_id)
    hearing.handled(echo.correlation_id)
    assert hearing.until is None
    assert not hearing.take_outage()
    assert hearing.is_time_to_ask(at(100.1))


def test_a_forged_echo_changes_nothing() -> None:
    hearing = LivenessProbe(seconds(LEASE))
    for token in ("forged", None):
        hearing.answered(token, at(1))
        hearing.handled(token)
    assert hearing.until is None
    assert not hearing.take_outage()


def test_an_echo_is_told_from_what_workers_report() -> None:
    def delivery(exchange: str, key: str) -> Delivery:
        return Delivery(exchange, key, b"{}", False, Properties(), 1, AckBatcher.__new__(AckBatcher))

    assert is_echo(delivery(STATUS, ECHO))
    assert not is_echo(delivery(STATUS, "atlas.beat"))
    assert not is_echo(delivery("fluffle.tasks", ECHO))
