"""The messages of the protocol as frozen pydantic models, and the exchanges and queues as data.

Pure: no input or output, no RabbitMQ. Every package may import this one.
Begin with primitives.py (field types and `decode`) and topology.py (exchanges, queues, routing keys).
Requests: task_requests.py, queries.py, chat.py. Workers: worker_reports.py, assignments.py. Answers: views.py.
docs/protocol.md describes every field; tests compare the page with these models.
"""
