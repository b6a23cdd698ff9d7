"""A driver around the Python library; see ../README.md."""

import hashlib
import itertools
import json
import sys
import threading
import time
from collections import Counter

from rocketmq import (
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    Message,
    MessageListener,
    Producer,
    PushConsumer,
    SimpleConsumer,
    TransactionChecker,
    TransactionResolution,
)
from rocketmq.grpc_protocol import FilterType

OUT = sys.stdout
LOCK = threading.Lock()
NUMBERS = itertools.count(1)
CLIENTS, TRANSACTIONS, DELIVERIES = {}, {}, {}
ANSWER = {"value": "COMMIT"}
RESOLUTIONS = {
    "COMMIT": TransactionResolution.COMMIT,
    "ROLLBACK": TransactionResolution.ROLLBACK,
    "UNKNOWN": TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED,
}


def say(line):
    with LOCK:
        OUT.write(json.dumps(line) + "\n")
        OUT.flush()


def shown(message):
    body = message.body
    return {
        "body": body.decode() if len(body) < 1000 else None,
        "size": len(body),
        "md5": hashlib.md5(body).hexdigest(),
        "tag": message.tag,
        "keys": sorted(message.keys or []),
        "properties": dict(message.properties or {}),
        "message_id": message.message_id,
        "attempt": message.delivery_attempt,
        "corrupted": message.corrupted,
    }


class Checker(TransactionChecker):
    def check(self, message):
        say({"event": "check", "answer": ANSWER["value"]} | shown(message))
        return RESOLUTIONS[ANSWER["value"]]


class Listener(MessageListener):
    def __init__(self, name, fail, hold_s):
        self.name, self.fail, self.hold_s, self.failed = name, fail, hold_s, Counter()

    def consume(self, message):
        say({"event": "message", "consumer": self.name} | shown(message))
        time.sleep(self.hold_s)
        self.failed[message.body] += 1
        return ConsumeResult.FAILURE if self.failed[message.body] <= self.fail else ConsumeResult.SUCCESS


def configuration(command):
    credentials = Credentials(command.get("access", ""), command.get("secret", ""))
    return ClientConfiguration(command["endpoint"], credentials)


def expression(command):
    kind = FilterType.SQL if command.get("sql") else FilterType.TAG
    return FilterExpression(command.get("filter", "*"), kind)


def message_of(command):
    message = Message()
    message.topic = command["topic"]
    message.body = b"x" * command["size"] if "size" in command else command["body"].encode()
    if command.get("tag"):
        message.tag = command["tag"]
    for key in command.get("keys", []):
        message.keys = key
    for name, value in command.get("properties", {}).items():
        message.add_property(name, value)
    if command.get("group"):
        message.message_group = command["group"]
    if command.get("delay_ms"):
        message.delivery_timestamp = int(time.time()) + -(-command["delay_ms"] // 1000)
    return message


def producer(command):
    CLIENTS[command["name"]] = client = Producer(
        configuration(command), tuple(command["topics"]), checker=Checker(), tls_enable=command.get("tls", False)
    )
    client.startup()


def answer(command):
    ANSWER["value"] = command["value"]


def send(command):
    receipt = CLIENTS[command["producer"]].send(message_of(command))
    return {"message_id": receipt.message_id, "recall_handle": receipt.recall_handle}


def half(command):
    client = CLIENTS[command["producer"]]
    transaction = client.begin_transaction()
    receipt = client.send(message_of(command), transaction)
    token = str(next(NUMBERS))
    TRANSACTIONS[token] = transaction
    return {"tx": token, "message_id": receipt.message_id, "transaction_id": receipt.transaction_id}


def end(command):
    transaction = TRANSACTIONS[command["tx"]]
    (transaction.commit if command["resolution"] == "COMMIT" else transaction.rollback)()


def recall(command):
    CLIENTS[command["producer"]].recall_message(command["topic"], command["handle"])


def simple(command):
    CLIENTS[command["name"]] = client = SimpleConsumer(
        configuration(command),
        command["group"],
        {command["topic"]: expression(command)},
        await_duration=command.get("await_s", 5),
    )
    client.startup()


def receive(command):
    client = CLIENTS[command["consumer"]]
    messages = []
    for message in client.receive(command["max"], command["invisible_s"]) or []:
        token = str(next(NUMBERS))
        DELIVERIES[token] = (client, message)
        messages.append(shown(message) | {"token": token})
    return {"messages": messages}


def ack(command):
    client, message = DELIVERIES[command["token"]]
    client.ack(message)


def invisible(command):
    client, message = DELIVERIES[command["token"]]
    client.change_invisible_duration(message, command["seconds"])


def push(command):
    listener = Listener(command["name"], command.get("fail", 0), command.get("hold_s", 0))
    CLIENTS[command["name"]] = client = PushConsumer(
        configuration(command), command["group"], listener, {command["topic"]: expression(command)}
    )
    client.startup()


def close(command):
    CLIENTS.pop(command["name"]).shutdown()


OPS = (producer, answer, send, half, end, recall, simple, receive, ack, invisible, push, close)
VERBS = {op.__name__: op for op in OPS}


def main():
    # The library prints too.
    sys.stdout = sys.stderr
    for line in sys.stdin:
        command = json.loads(line)
        try:
            done = VERBS[command["op"]](command) or {}
        except Exception as error:  # told to the story, which knows whether it should be
            done = {"error": {"type": type(error).__name__, "text": str(error)}}
        say(done | {"id": command["id"]})


main()
