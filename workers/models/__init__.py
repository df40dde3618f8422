"""Implement the kinds of LLM: a model of a provider, a command, a Python function, and the demo.

Each turns a `Job` into an `Answer` (`base.py`) behind the interface in `protocols.py`. `factory.py` builds the kind
that the options name, and imports only its libraries. `prompt.py` and `output.py` hold the prompt and the check of the
output that all kinds share. Only `workers`, the CLI and the public face `fluffle` may import this package.
Begin with `base.py`.
"""
