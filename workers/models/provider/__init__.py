"""Call a model of a provider, such as OpenAI, Anthropic or Ollama, through pydantic-ai.

`find_model.py` finds the model for a name, `llm.py` runs it, `retries.py` repeats requests that may succeed later, and
`failures.py` turns the errors of providers into `ModelError`. Only `workers.models.factory` imports this package, and
only for a worker of such a model. Begin with `llm.py`.
"""
