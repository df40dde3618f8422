"""Publishes a task with nothing but pika and prints its answers."""

import json
import os
import sys

import pika

ANSWERS = "amq.rabbitmq.reply-to"  # RabbitMQ's direct reply-to: no queue to make or delete


def on_answer(channel, method, properties, body):
    answer = json.loads(body)
    print(f"{properties.type}: {answer.get('result') or answer.get('errors') or answer.get('error') or answer['id']}")
    if properties.type != "task.accepted":
        channel.stop_consuming()


task = {"description": "Summarise the text in two sentences", "inputs": {"text": sys.stdin.read()}}
connection = pika.BlockingConnection(pika.URLParameters(os.environ["FLUFFLE_AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()  # an error where nobody would take the task
channel.basic_consume(ANSWERS, on_answer, auto_ack=True)
properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, reply_to=ANSWERS)
channel.basic_publish("fluffle.tasks", "submit", json.dumps(task), properties, mandatory=True)
channel.start_consuming()
connection.close()
