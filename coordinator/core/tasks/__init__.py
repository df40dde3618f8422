"""Tasks: their state, what changes it, and the requests and reports that ask for a change.

Begin with `task.py` (the fields of a task) and `transitions.py` (the states, and a function for each trigger that
changes the status together with everything that belongs to it). `attempts.py` handles the reports of workers.
Other packages of the core may import `task`, `transitions` and `lineage`; only the machine imports the handlers.
"""
