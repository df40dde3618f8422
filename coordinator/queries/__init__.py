"""Answers to queries: read-only, on separate connections and threads, also on a standby.

`responder.py` takes queries from RabbitMQ, `executor.py` runs them in threads, `handlers.py` answers each kind,
`history.py` reads messages, `dry_run.py` finds the LLM that a task would get, `reports/` adds up statistics.

Imported by `batch.py` (which closes report periods), `service.py` and `app.py`. Begin with `handlers.py`.
"""
