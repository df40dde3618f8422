"""From delivered messages to events of the core.

`inbox.py` collects deliveries and `buffer.py` chooses the next batch of them, `decoder.py` turns each into an event or
a rejection, `refusals.py` writes the answer to a rejected message, `output_validation.py` checks results against output
schemas. `liveness.py` and `echo.py` find out whether this coordinator still receives heartbeats.

Only `batch.py`, `service.py` and `app.py` import this package. Begin with `decoder.py`.
"""
