"""The commands that run programs: broker, coordinator, worker, web, up and demo.

They read settings and options, build one program with its composition root, and handle signals. Only
`fluffle.cli.main` loads this package.
Begin with `coordinator.py`, the shortest one; `up.py` and `demo.py` run several programs at once.
"""
