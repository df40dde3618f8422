"""Users of RabbitMQ and their permissions.

The CLI (`fluffle user …`) and the coordinator use this package. Begin with roles.py: it derives the permissions of
each role from the topology. users.py creates users by the management API (admin_api.py).
"""
