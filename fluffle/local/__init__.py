"""Everything on one computer: the file `fluffle.toml`, and the programs that `fluffle up` and `fluffle demo` run.

Only `fluffle.cli` imports this package.
Begin with `config.py` (what `fluffle.toml` may say), then `stack.py` (what runs, in which order it starts and stops)
and `supervisor.py` (one program that is restarted when it ends).
"""
