"""Check whether a model would answer, by a request for the list of models, which costs nothing."""

import re

from pydantic_ai.models import Model

from workers.models.provider.http_client import WrongReply, shown_url

LIST_TIMEOUT_SECONDS = 3.0
"""For the list of models."""

_MODELS_SHOWN = 5


async def why_not_ready(model: Model, name: str) -> str | None:
    """Return why the model `name` would not answer now and what to do, or None.

    Only servers with the protocol of OpenAI are checked.
    """
    try:
        import openai
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    except ImportError:
        return None
    if not isinstance(model, OpenAIChatModel | OpenAIResponsesModel):
        return None
    url = shown_url(str(model.base_url))
    client = model.client.with_options(timeout=LIST_TIMEOUT_SECONDS, max_retries=0)
    try:
        found = [it async for it in client.models.list()]
    except openai.APITimeoutError:
        return f"{url} does not answer within {LIST_TIMEOUT_SECONDS:g} s; tasks fail until it does"
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, WrongReply):
            return str(error.__cause__)
        start = "start it, with `ollama serve`; " if name.startswith("ollama:") else ""
        return f"{url} does not answer ({_root(error)}): {start}tasks fail until it does"
    except openai.APIStatusError as error:
        return _refused(url, error.status_code)
    except Exception:  # a list that is none says nothing
        return None
    names = [str(it.id) for it in found]
    if not names or any(it.owned_by == "llamacpp" for it in found):  # llama.cpp serves its model by any name
        return None
    if {model.model_name, f"{model.model_name}:latest"} & {*names}:
        return None
    known = ", ".join(names[:_MODELS_SHOWN]) + (", …" if len(names) > _MODELS_SHOWN else "")
    pull = f"; get it with `ollama pull {model.model_name}`" if name.startswith("ollama:") else ""
    return f"{url} has no model {model.model_name}, but {known}{pull}"


def _refused(url: str, status: int) -> str | None:
    match status:
        case 401 | 403:
            return f"{url} refuses the API key (status {status}): tasks fail until the right one is set"
        case 404 if not re.search(r"/v\d", url):
            return f"{url} has no list of models (status 404): is the base URL right? (it usually ends in /v1)"
        case 503:
            return f"{url} is not ready (status 503); tasks wait while it loads its model"
        case _:
            return None


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
