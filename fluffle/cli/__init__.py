"""The command `fluffle` and its sub-commands, built on click.

Commands parse options, call the client and print. They hold no logic of their own: what people read comes from
`fluffle.presentation`, what talks AMQP from `fluffle.client`. A command imports what it needs when it runs, so that
`fluffle --help` stays fast. Nothing imports this package, except `python -m fluffle`.
Begin with `main.py` (the list of commands, errors and exit codes), then `options.py` and `session.py`.
"""
