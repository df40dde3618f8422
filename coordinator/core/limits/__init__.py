"""Rate limits that LLMs share: closed by a provider or by hand, and the figures of an operator.

LLMs with the same API key belong to the same limit, on whatever host they run. While a limit is closed, none of its
LLMs gets a task. All arithmetic is here: workers only report what the provider said.

Imported by the rest of `coordinator/core` and by the storage. Start with rate_limit.py.
"""
