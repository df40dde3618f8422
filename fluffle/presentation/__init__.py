"""Texts and figures that the command line, the web page and the reports share.

Here a duration, a task's state, its timeline or a report becomes text, a table, HTML or SVG. Nothing here asks the
coordinator. `fluffle.cli`, `fluffle.web` and `fluffle.local` may import this package.
Begin with `task_text.py`; `output.py` prints to the terminal, `report_*.py` format reports.
"""
