"""The command-line options that all benchmarks share."""

import argparse
from pathlib import Path


def command(about: str | None, *, broker: bool = True) -> argparse.ArgumentParser:
    """Return a parser with `--json` and, with `broker`, `--amqp-url`. `about` is the docstring of the program."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if broker:
        parser.add_argument("--amqp-url", help="RabbitMQ to run on, with an empty virtual host (a private node)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser
