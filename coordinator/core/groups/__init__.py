"""Tasks for several LLMs: all, vote, relay and review.

Begin with `driver.py`, which creates the parts of a group and ends them. `strategies.py` decides the next step of a
group from its parts, with `voting.py` and `relay_review.py`; `steps.py` holds the kinds of steps. Only the machine
and the handlers of task requests import this package.
"""
