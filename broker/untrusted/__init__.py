"""Work on input that may be hostile, in child processes with limits on time and memory.

Every package may import this one. Begin with output_check.py, which checks a result against a JSON Schema.
json_schema.py validates in the child process; process_pool.py starts, limits and replaces the child processes.
"""
