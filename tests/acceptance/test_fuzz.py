"""A slice of `make fuzz`: thousands of malformed messages are rejected with a reason and affect no other."""

from tests.programs.fuzz import decode_in_bulk, publish_in_bulk
from tests.support.random_texts import rendered_in_bulk
from tests.support.site import Site
from tests.support.task_audit import Ledger


def test_any_body_is_decoded_or_rejected_with_a_reason() -> None:
    decoded = decode_in_bulk(10_000, seed=1)
    assert decoded.refused == 10_000
    assert decoded.made < 2 * decoded.refused
    assert decoded.grown < 50 * 2**20


def test_rendered_markdown_runs_no_code_and_loads_nothing() -> None:
    assert rendered_in_bulk(2_000, seed=1) > 100_000


def test_every_malformed_message_among_valid_tasks_is_accounted_for(site: Site, ledger: Ledger) -> None:
    survived = publish_in_bulk(site, ledger, 1_000, seed=2)
    assert survived.published == 1_000
    assert (survived.missing, survived.unasked, survived.restarts, survived.problems) == (0, 0, 0, [])
    assert survived.good_done == survived.good == 100
