"""A small client of AMQP 1.0, for messages that RabbitMQ cannot deliver by AMQP 0-9-1.

broker.amqp uses this package to read such messages and to remove them from a queue. Other packages only import the
header name UNTRANSLATABLE.
Begin with client.py; types.py decodes values, messages.py makes deliveries of messages.
"""
