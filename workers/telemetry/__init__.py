"""Measure one worker: Prometheus metrics, and a trace span for each attempt.

The libraries for both are imported only when a setting turns them on. Only `workers` may import this package.
Begin with `metrics.py`.
"""
