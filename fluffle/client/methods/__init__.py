"""The methods of the client by subject: messages, reports, rate limits and budgets.

Each module is a base class of `Client`, which has the methods for tasks and LLMs itself. Only `fluffle.client.client`
imports the classes; the CLI uses a helper of `chat.py`. Begin with `reports.py`, the shortest.
"""
