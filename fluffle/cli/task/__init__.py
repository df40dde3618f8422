"""The commands `fluffle task …`: submit, list, show, watch, wait, assign, update, answer, cancel and retry.

Only `fluffle.cli.main` loads this package, when one of its commands runs.
Begin with `group.py`, which lists the commands; `submit.py` and `show.py` are the largest.
"""
