"""Scheduling: which ready task gets which free slot, and when a run is moved to a faster LLM.

Begin with `dispatch.py`, which fills the free slots. `ready_queue.py` and `lane.py` keep the ready tasks in order,
`earliest_finish.py` is the default policy, `policies.py` has the others. The machine and the state import this
package; handlers of tasks and groups reach it through the state.
"""
