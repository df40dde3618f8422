"""`python -m fluffle` is the command `fluffle`."""

from fluffle.cli.main import main

main()
