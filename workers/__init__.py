"""Run one LLM as a worker: take its assignments from RabbitMQ, call the LLM, report the results.

`execution` carries an attempt from its assignment to its confirmed result, `tools` are the calls that an LLM may make
while it works, `models` are the kinds of LLM, and `chat` answers messages. This room imports only `broker`; only
`fluffle` may import it. Begin with `worker.py`.
"""
