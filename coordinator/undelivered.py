"""What a sender can do about a message whose receiver has no mailbox: command lines, which the core does not know."""


def advice_for(address: str) -> str:
    """Return why nobody has this address, and the command that changes that."""
    kind, _, name = address.partition(".")
    match kind:
        case "llm":
            return f"no worker of that name has ever run; start one with `fluffle worker {name}`"
        case "user":
            return f"{name} gets a mailbox with the first `fluffle message inbox --as {name}`"
        case _:
            joining = f"LLMs join it with `fluffle worker --group {name}`, people with `fluffle message join {name}`"
            return f"nobody is in the group; {joining}"
