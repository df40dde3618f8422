"""Policies by their names: built in, or a function of the user that a name of the form `pkg.mod:function` imports."""

import inspect
from importlib import import_module

from broker.errors import ConfigurationError
from coordinator.core.scheduling.decision import Policy
from coordinator.core.scheduling.policies import BUILT_IN, NAMES, TaskByTask


def load_policy(name: str) -> Policy:
    """Return a new policy: one of NAMES, or the function that `pkg.mod:function` names.

    Raises ConfigurationError when there is no such policy, it cannot be imported or does not take three arguments.
    """
    if make := BUILT_IN.get(name):
        return make()
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigurationError(f"policy: there is no {name!r}: use {', '.join(NAMES)} or pkg.mod:function")
    try:
        choose = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"policy: {name!r} cannot be imported: {error}") from error
    if not callable(choose):
        raise ConfigurationError(f"policy: {name!r} is not a function")
    try:
        inspect.signature(choose).bind(None, [], 0)
    except TypeError as error:
        raise ConfigurationError(f"policy: {name!r} must take a task, the free LLMs and the time: {error}") from error
    return TaskByTask(choose)
