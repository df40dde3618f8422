"""Implement the kinds of LLM: a model of a provider, a command, a Python function, and the demo.

Each turns a `Job` into an `Answer` (see `base.py`); `factory.py` builds the one that the options name, and imports the
libraries of that one only. `prompt.py` and `output.py` hold the prompt and the check of the output that all of them
share. Only `workers`, the CLI and the public face `fluffle` may import this package. Begin with `base.py`.
"""
