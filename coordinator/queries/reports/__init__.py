"""Reports: statistics of tasks, attempts and LLM slots, grouped and filtered as a report's definition says.

`answer.py` answers a report query and `engine.py` makes the rows: counts and sums by `facts.py` (row by row) and
`sums.py` (from closed periods), percentiles by `ranking.py`, slot use by `utilisation.py`. `figures.py` holds the
formula of each metric. `closing.py` adds up finished tasks period by period, so that reports stay fast.

Imported by the query handlers and by `batch.py`, which closes periods. Begin with `engine.py`.
"""
