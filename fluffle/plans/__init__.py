"""Read plans: TOML or YAML files of tasks that depend on each other, with templates.

A plan is filled in by a separate process with limited time and memory, because it may come from a stranger.
The client and the CLI may import this package. Begin with `plan.py`.
"""
