"""The connection to RabbitMQ by AMQP 0-9-1.

Begin with robust_connection.py: it publishes, consumes and reconnects, and other packages use it with envelope.py.
A robust connection holds sessions (session.py). A session is one connection with one channel, rebuilt after a failure.
channel.py defines the interface of connections and channels; pika_connection.py implements it and is the only module
that imports pika. codec.py encodes and decodes the frequent frames.
"""
