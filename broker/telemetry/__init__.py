"""Metrics, health pages, logs and traces of a process.

Coordinator, workers and fluffle may import this package. Begin with http_server.py, which serves metrics and health.
tracing.py imports OpenTelemetry; open_tracing.py starts it only where traces are wanted.
"""
