"""The coordinator: assigns tasks to LLMs, tracks them in the database and answers queries.

One process leads, others stand by. Imports `broker` only; `workers` never imports this package, and `fluffle` only to
start a coordinator or to copy its database. The packages are layers, checked by an import contract in pyproject.toml:
`app`, `service`, `batch`, then `inbound` and `queries`, `outbound`, `telemetry` and `storage`, and the pure `core`.

Begin with `app.py`, which builds a coordinator, and `service.py`, its loop.
"""
