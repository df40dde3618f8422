"""A worker with nothing but pika: the LLM `shout`, which answers with the description in capitals."""

import json
import os
import secrets
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pika
from pika.exceptions import AMQPError, ConnectionWrongStateError

NAME, SLOTS, SKILLS, BEAT = "shout", 2, {"shout": 1.0}, 5
INSTANCE = f"{NAME}-{secrets.token_hex(4)}"  # new at every start
WORK = f"llm.{NAME}.work"
WORK_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",
    "x-dead-letter-exchange": "fluffle.rejected",
    "x-dead-letter-routing-key": f"dead.{WORK}",
    "x-dead-letter-strategy": "at-least-once",
    "x-delivery-limit": 20,
}


def answer(task, stopped, progress):
    """Put your LLM here. It runs in a thread; `stopped` is set when nobody wants the answer any more."""
    words = task["description"].upper().split()
    for word in words:
        progress(word + " ")
        if stopped.wait(0.05):
            break
    return " ".join(words)


class Worker:
    def __init__(self):
        self.threads = ThreadPoolExecutor(SLOTS)
        self.in_hand = {}  # (task id, attempt): the event that stops it
        self.results = {}  # (task id, attempt): its result, until RabbitMQ has confirmed it
        self.done = set()
        self.draining = False

    def serve(self):
        """Work until drained, or until the connection is lost: what is in hand outlives it."""
        with pika.BlockingConnection(pika.URLParameters(os.environ["FLUFFLE_AMQP_URL"])) as self.connection:
            self.channel = self.connection.channel()
            self.channel.confirm_delivery()  # from here on basic_publish returns when RabbitMQ has the message
            self.channel.queue_declare(WORK, durable=True, arguments=WORK_ARGUMENTS)
            self.channel.queue_bind(WORK, "fluffle.work", f"llm.{NAME}")
            # RabbitMQ may keep the last name for a connection of which it does not know yet that it is lost.
            self.control = f"llm.{NAME}.{INSTANCE}.{secrets.token_hex(2)}"
            self.channel.queue_declare(self.control, exclusive=True)
            for key in list(self.results):
                self.send_result(key)
            self.say("hello", self.presence())
            self.channel.basic_consume(self.control, self.on_control, auto_ack=True)
            self.channel.basic_qos(prefetch_count=SLOTS)
            assignments = self.channel.basic_consume(WORK, self.on_assignment)
            beat_at = time.monotonic() + BEAT
            while self.in_hand or not self.draining:
                self.connection.process_data_events(time_limit=0.5)
                if self.draining and assignments:
                    self.channel.basic_cancel(assignments)
                    assignments = None
                if time.monotonic() > beat_at:
                    self.say("beat", self.presence())
                    beat_at = time.monotonic() + BEAT
            self.say("goodbye", {"name": NAME, "instance": INSTANCE})

    def on_assignment(self, channel, method, properties, body):
        try:
            task = json.loads(body)
            key = task["task_id"], task["attempt"]
        except (ValueError, TypeError, KeyError):
            channel.basic_reject(method.delivery_tag, requeue=False)  # it goes to the rejected queue
            return
        if key not in self.in_hand and key not in self.done:  # else it came twice
            self.say("claim", self.names(key))
            self.in_hand[key] = threading.Event()
            self.threads.submit(self.run, task, key, self.in_hand[key])
        channel.basic_ack(method.delivery_tag)  # now that the claim is confirmed, and before the work is done

    def on_control(self, channel, method, properties, body):
        message = json.loads(body)
        if message["type"] == "drain":
            self.draining = True
        elif message["type"] == "stop" and (key := (message["task_id"], message["attempt"])) in self.in_hand:
            self.in_hand[key].set()
        elif message["type"] == "notice":
            print(message["text"], file=sys.stderr)

    def run(self, task, key, stopped):
        """In a thread: do the task. Whatever uses the connection is handed to the thread of the connection."""
        result, began = self.names(key), time.monotonic()

        def progress(text):
            self.soon(self.say, "progress", {**self.names(key), "text": text})

        try:
            text = answer(task, stopped, progress)
            result |= {"outcome": "cancelled"} if stopped.is_set() else {"outcome": "completed", "result": text}
        except Exception as error:
            failure = {"type": type(error).__name__, "message": str(error), "retryable": True}
            result |= {"outcome": "failed", "error": failure}
        self.results[key] = {**result, "duration": time.monotonic() - began}
        self.soon(self.send_result, key)

    def soon(self, function, *arguments):
        with suppress(ConnectionWrongStateError):  # it is away; results are sent when it is back
            self.connection.add_callback_threadsafe(partial(function, *arguments))

    def send_result(self, key):
        if key in self.results:
            self.say("result", self.results[key])
            del self.results[key], self.in_hand[key]
            self.done.add(key)

    def say(self, what, message):
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
        if what in ("hello", "beat", "claim"):
            properties.reply_to = self.control  # where orders are to go
        self.channel.basic_publish("fluffle.status", f"{NAME}.{what}", json.dumps(message), properties, mandatory=True)

    def names(self, key):
        return {"task_id": key[0], "attempt": key[1], "instance": INSTANCE}

    def presence(self):
        about = {"name": NAME, "instance": INSTANCE, "model": "capitals", "skills": SKILLS, "slots": SLOTS}
        tasks = [{"task_id": task_id, "attempt": attempt} for task_id, attempt in self.in_hand]
        return {**about, "draining": self.draining, "tasks": tasks}


worker = Worker()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: setattr(worker, "draining", True))
while not worker.draining or worker.in_hand:
    try:
        worker.serve()
    except AMQPError as error:
        print(f"no connection to RabbitMQ, trying again: {error!r}")
        time.sleep(1)
