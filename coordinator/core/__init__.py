"""The rules of the coordinator: events in, changes to store and commands to send out.

Everything here is pure. There is no I/O, no clock and no thread; the time is an argument. Import only the standard
library without I/O, `broker.protocol`, `broker.errors` and `broker.timestamps` (an import contract checks that). The
rest of `coordinator` imports this package; this package imports nothing of the rest.

Begin with `transaction.py`, the one call between the core and its shell. Then read `events.py` (what goes in),
`commands.py` (what comes out), `machine.py` (who handles which event) and `state.py` (what the core remembers).
"""
