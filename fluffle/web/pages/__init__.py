"""The pages, one module each. Each has a function `add` that registers its routes.

A page receives its services from `fluffle.web.page_context` and knows no other page. Modules that start with `task_`
hold the logic of the task pages, without HTML. Only `fluffle.web.app` imports this package.
Begin with `tasks.py`.
"""
