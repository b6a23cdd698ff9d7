"""Messages without a transaction: all fields, order, delay, and what our own SDK makes of them."""

import time

import pytest
from conftest import PLAIN_ONLY, LANGUAGES, Driver, Reader, Refused, fresh

FULL = [language for language in LANGUAGES if language not in PLAIN_ONLY]
EVERYTHING = {"body": "größe", "tag": "new", "keys": ["k1"], "properties": {"tenant": "blue", "trace": "a=b;c"}}


class Producer:
    def __init__(self, driver, server, topic):
        self.driver, self.topic, self.name = driver, topic, fresh("producer")
        driver.do("producer", name=self.name, endpoint=server.grpc, topics=[topic])

    def send(self, body=None, **fields):
        fields = fields if body is None else fields | {"body": body}
        return self.driver.do("send", producer=self.name, topic=self.topic, **fields)

    def recall(self, handle):
        return self.driver.do("recall", producer=self.name, topic=self.topic, handle=handle)


@pytest.fixture(scope="session")
def sdk(home):
    driver = Driver("sdk", home / "sdk.log")
    yield driver
    driver.kill()


def same(message, **fields):
    shown = {name: message[name] for name in EVERYTHING}
    return shown == EVERYTHING | fields


def test_message_goes_from_the_client_to_itself_and_to_our_sdk(server, driver, sdk):
    topic = fresh("there")
    sent = Producer(driver, server, topic).send(**EVERYTHING)
    for reader in (Reader(driver, server, topic), Reader(sdk, server, topic)):
        (message,) = reader.take(1)
        assert same(message), message
        assert message["message_id"] == sent["message_id"]
        assert message["attempt"] == 1


def test_message_goes_from_our_sdk_to_the_client(server, driver, sdk):
    topic = fresh("back")
    Producer(sdk, server, topic).send(**EVERYTHING)
    (message,) = Reader(driver, server, topic).take(1)
    assert same(message), message
    assert message["message_id"] and not message.get("corrupted")


def test_largest_body_arrives_whole(server, driver, shared_drivers, language):
    topic = fresh("large")
    size = 4 * 1024 * 1024
    Producer(driver, server, topic).send(size=size)
    # Two libraries cannot receive what they can send: their bound is 4 MiB with all around it.
    reads = shared_drivers("python") if language in ("node", "rust") else driver
    (message,) = Reader(reads, server, topic).take(1)
    assert message["size"] == size
    assert not message.get("corrupted")


def test_message_group_keeps_its_order(server, driver):
    topic = fresh("ordered")
    producer = Producer(driver, server, topic)
    for number in range(6):
        producer.send(f"{'ab'[number % 2]}{number}", group="ab"[number % 2])
    reader = Reader(driver, server, topic)
    first = reader.receive()
    # One at a time: the next of a group comes when the one before is acked.
    assert sorted(message["body"] for message in first) == ["a0", "b1"]
    for message in first:
        driver.do("ack", token=message["token"])
    bodies = [message["body"] for message in reader.take(4)]
    assert [body for body in bodies if body[0] == "a"] == ["a2", "a4"]
    assert [body for body in bodies if body[0] == "b"] == ["b3", "b5"]


def test_delayed_message_comes_on_time_and_not_before(server, driver):
    topic = fresh("delayed")
    # Before the send, so that the wait cannot look longer than it was.
    began = time.monotonic()
    Producer(driver, server, topic).send("later", delay_ms=2500)
    (message,) = Reader(driver, server, topic).take(1)
    assert message["body"] == "later"
    # Two libraries send whole seconds.
    assert time.monotonic() - began > 1.4


@pytest.mark.languages(*FULL)
def test_recalled_message_never_comes(server, driver, language):
    topic = fresh("recalled")
    producer = Producer(driver, server, topic)
    recalled = producer.send("never", delay_ms=3000)
    producer.recall(recalled["recall_handle"])
    # Again, there is nothing to recall; this library does not look at the answer.
    if language != "python":
        with pytest.raises(Refused, match="40401|NOT_?FOUND|NotFound|delivered or recalled"):
            producer.recall(recalled["recall_handle"])
    producer.send("after", delay_ms=4000)
    (message,) = Reader(driver, server, topic, await_s=10).take(1)
    assert message["body"] == "after"


@pytest.mark.parametrize("filter, wanted", [("*", "abc"), ("a || c", "ac"), ("b", "b")])
def test_tag_filters_choose(server, driver, filter, wanted):
    topic = fresh("tagged")
    producer = Producer(driver, server, topic)
    for tag in "abc":
        producer.send(tag, tag=tag)
    taken = Reader(driver, server, topic, filter=filter).take(len(wanted))
    assert sorted(message["body"] for message in taken) == list(wanted)


def test_sql_filter_is_refused_clearly(server, driver):
    topic = fresh("sql")
    Producer(driver, server, topic).send("x")
    reader = Reader(driver, server, topic, filter="a > 1", sql=True)
    with pytest.raises(Refused, match="SQL filters are not supported|50500|UNSUPPORTED"):
        reader.receive()
