"""The health of LLMs: whose fault a failure is, circuit breakers, and the figures of the last hour.

An LLM that fails by its own fault must not cost tasks their attempts. After a few such failures, the circuit breaker of
the instance opens: the instance gets one task at a time as a probe, with growing pauses, until a probe succeeds.

Imported by the rest of `coordinator/core` and by the storage. Start with monitor.py.
"""
