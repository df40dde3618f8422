"""Submits a task as a remote call, one request and one answer, with nothing but pika."""

import json
import os
import sys
import uuid

import pika

ANSWERS = "amq.rabbitmq.reply-to"  # RabbitMQ's direct reply-to: no queue to make or delete


def call(connection, task):
    """The answer to a task, once it is over."""
    answers = []
    channel = connection.channel()
    channel.confirm_delivery()  # an error where nobody would take the task
    channel.basic_consume(ANSWERS, lambda *delivery: answers.append(delivery), auto_ack=True)
    number = str(uuid.uuid4())
    properties = pika.BasicProperties(
        content_type="application/json", delivery_mode=2, reply_to=ANSWERS, correlation_id=number
    )
    channel.basic_publish(
        "fluffle.tasks", "submit", json.dumps({**task, "answers": "final"}), properties, mandatory=True
    )
    while not answers:
        connection.process_data_events(time_limit=None)
    _, _, answered, body = answers[0]
    assert answered.correlation_id == number
    channel.close()
    return json.loads(body)


connection = pika.BlockingConnection(pika.URLParameters(os.environ["FLUFFLE_AMQP_URL"]))
answer = call(connection, {"description": "Summarise the text in two sentences", "inputs": {"text": sys.stdin.read()}})
print(answer.get("result") or answer.get("errors") or answer.get("error"))
connection.close()
