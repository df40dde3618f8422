"""What all processes share: the protocol, the connection to RabbitMQ, and helper code.

The other packages (coordinator, workers, fluffle) import this package; it imports none of them.
protocol/ defines the messages, amqp/ sends and receives them, node/ runs a private RabbitMQ node.
Begin with protocol/topology.py (exchanges and queues), then amqp/robust_connection.py.
errors.py holds every error that Fluffle raises; settings.py holds every setting.
"""
