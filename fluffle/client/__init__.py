"""Use Fluffle from Python: submit tasks, wait for results, steer, query, chat.

`Client` is the asynchronous client, `SyncClient` the same for programs without asyncio, and `TaskHandle` a submitted
task. Programs import these names from `fluffle`; the CLI, the web page and `fluffle up` import the modules. This
package imports only `broker` and, when a plan is submitted, `fluffle.plans`. Begin with `client.py`.
"""
