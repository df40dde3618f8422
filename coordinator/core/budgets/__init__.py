"""Budgets: limits of money, tokens and runs, for a task and its tree, or for all tasks in each period.

Begin with `ledger.py`: the accounts that attempts are charged to. `admission.py` decides whether a task may begin and
reserves what it is expected to use, `enforcement.py` stops runs and wakes tasks, `control.py` handles requests. The
ledger is part of the state: `budget.py`, `account.py`, `periods.py` and `ledger.py` do not import the state.
docs/budgets.md describes the rules for users.
"""
