"""The private RabbitMQ node of a user: find or install RabbitMQ, configure, start, stop and repair the node.

The CLI (`fluffle broker …`, `up`, `demo`) uses this package; locate.py also finds the broker's URL for all programs.
Begin with private_node.py, the interface. server.py runs an installed RabbitMQ, container.py runs one in Docker.
"""
