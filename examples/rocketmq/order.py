"""A transaction with the RocketMQ 5 client for Python: pip install rocketmq-python-client==5.1.2

python order.py [HOST:PORT]
"""

import sys

from rocketmq import (
    ClientConfiguration,
    Credentials,
    FilterExpression,
    Message,
    Producer,
    SimpleConsumer,
    TransactionChecker,
    TransactionResolution,
)

configuration = ClientConfiguration((sys.argv[1:] or ["127.0.0.1:8081"])[0], Credentials())
orders = set()  # stands for the database of the shop


class Checker(TransactionChecker):
    """HalfMQ asks what became of a half message that nobody decided."""

    def check(self, message):
        return TransactionResolution.COMMIT if message.body.decode() in orders else TransactionResolution.ROLLBACK


producer = Producer(configuration, ("python-orders",), checker=Checker())
producer.startup()

half = Message()
half.topic, half.body, half.tag = "python-orders", b"order 42", "placed"
transaction = producer.begin_transaction()
producer.send(half, transaction)  # durable, and nobody sees it
orders.add("order 42")  # the local transaction
transaction.commit()  # now everybody does

consumer = SimpleConsumer(configuration, "python-cart", {"python-orders": FilterExpression("placed")})
consumer.startup()
for message in consumer.receive(16, 15):
    print("received", message.body.decode())
    consumer.ack(message)
consumer.shutdown()
producer.shutdown()
