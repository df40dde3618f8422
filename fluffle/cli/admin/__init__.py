"""The commands for operators: users of RabbitMQ, backups of the database, rejected messages.

Only `fluffle.cli.main` and `fluffle.cli.processes.broker` load this package.
Begin with `users.py` (`fluffle broker grant|revoke|users`).
"""
