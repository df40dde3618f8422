"""Run the attempts of one worker: claim a task, wait for a slot, call the LLM, report the result.

`Executor` holds all attempts of the worker, `RunningAttempt` is one of them, and `Reporter` sends results, which
`Spool` keeps on disk until RabbitMQ has confirmed them. Only `workers` may import this package.
Begin with `executor.py`.
"""
