"""What all tests share."""

import signal
from collections.abc import Generator

import pytest

# A shell that runs tests in the background lets them ignore Ctrl-C, and the processes that they start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has printed may hold halves of characters, which cannot be passed from process to process."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report
