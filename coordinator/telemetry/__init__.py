"""What operators observe: counters, Prometheus metrics, health checks, trace spans and rate-limited warnings.

`counters.py` counts in the batch thread, `snapshot.py` is the state at one moment, `metrics.py` shows both to
Prometheus, `health.py` serves them over HTTP, `tracing.py` makes OpenTelemetry spans.

Imports `coordinator.core` only. Nothing here may fail a batch. Begin with `health.py`.
"""
