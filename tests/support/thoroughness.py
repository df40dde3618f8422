"""How thorough the tests are. `make test` runs a slice; `make test-all` sets FLUFFLE_TEST_ALL=1 and runs everything."""

import os

import pytest

THOROUGH = os.environ.get("FLUFFLE_TEST_ALL") == "1"
SHARE = 3  # `make test` tries one in so many random examples

slow = pytest.mark.slow
"""A test, or a value of a parameter, that `make test` leaves out."""


def examples(number: int) -> int:
    """Return how many random examples to try where `make test-all` tries this number."""
    return number if THOROUGH else -(-number // SHARE)
