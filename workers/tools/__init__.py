"""Offer tools to an LLM while it works on a task: send, ask, delegate, ask_person, share, read.

`Toolbox` belongs to one attempt, `CoordinatorClient` carries its requests to the coordinator, and `socket` serves the
toolbox to a command of `--exec`. Only `workers` and the public face `fluffle` may import this package.
Begin with `toolbox.py`.
"""
