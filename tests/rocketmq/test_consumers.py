"""Simple and push consumers: leases, retries, back-off, dead letters."""

import time

import pytest
from conftest import LANGUAGES, PLAIN_ONLY, Reader, Refused, eventually, fresh
from test_messages import Producer

FULL = [language for language in LANGUAGES if language not in PLAIN_ONLY]


def push(driver, server, topic, group, **fields):
    name = fresh("listener")
    driver.do("push", name=name, endpoint=server.grpc, group=group, topic=topic, **fields)
    return name


def dead_letters(server, group):
    listed = server.cli("dlq", "list", group, check=False)
    return listed[0]["dead_letters"] if listed else []


def configure(server, group, attempts):
    server.cli("group", "configure", group, "--attempts-max", str(attempts), "--delay", "1s")


def test_unacked_message_comes_again_and_its_old_handle_is_refused(server, driver, language):
    topic = fresh("leased")
    Producer(driver, server, topic).send("once more")
    reader = Reader(driver, server, topic)
    (first,) = reader.receive(invisible_s=2)
    (second,) = reader.receive()
    assert (first["attempt"], second["attempt"]) == (1, 2)
    # This library does not look at the answer; what it asked for was not done all the same.
    if language == "go":
        driver.do("ack", token=first["token"])
    else:
        with pytest.raises(Refused, match="40013|INVALID_RECEIPT_HANDLE|expired"):
            driver.do("ack", token=first["token"])
    (row,) = server.cli("group", "describe", reader.group)[0]["topics"]
    assert row["in_flight"] == 1
    driver.do("ack", token=second["token"])


@pytest.mark.languages(*FULL)
def test_invisible_duration_can_be_changed(server, driver):
    topic = fresh("prolonged")
    producer = Producer(driver, server, topic)
    producer.send("shortened")
    reader = Reader(driver, server, topic)
    (first,) = reader.receive(invisible_s=600)
    driver.do("invisible", token=first["token"], seconds=1)
    (second,) = reader.receive(invisible_s=2)
    assert second["attempt"] == 2
    driver.do("invisible", token=second["token"], seconds=600)
    producer.send("witness")
    # The witness comes while the other stays away, for longer than its lease was.
    assert [message["body"] for message in reader.take(1)] == ["witness"]
    assert reader.receive() == []
    driver.do("ack", token=second["token"])


@pytest.mark.languages(*FULL)
def test_failing_listener_gets_the_message_again_after_a_while(server, driver):
    topic, group = fresh("retried"), fresh("retriers")
    name = push(driver, server, topic, group, fail=1)
    began = time.monotonic()
    Producer(driver, server, topic).send("twice")
    driver.until(lambda events: driver_bodies(events, name).count("twice") == 2, "second attempt")
    assert time.monotonic() - began > 0.9, "the back-off is one second"
    attempts = [e["attempt"] for e in driver.events if e["event"] == "message" and e["consumer"] == name]
    assert attempts == [1, 2]
    eventually(lambda: server.cli("group", "describe", group)[0]["topics"][0]["in_flight"] == 0, "the ack")
    assert dead_letters(server, group) == []


@pytest.mark.languages(*FULL)
def test_message_that_fails_for_the_last_time_is_a_dead_letter(server, driver):
    topic, group = fresh("failed"), fresh("failing")
    configure(server, group, 2)
    name = push(driver, server, topic, group, fail=100)
    Producer(driver, server, topic).send("hopeless", tag="t", properties={"tenant": "blue"})
    (letter,) = eventually(lambda: dead_letters(server, group), "a dead letter")
    assert letter["origin"]["attempts"] == 2, letter
    assert driver.bodies(name) == ["hopeless"] * 2
    # As RocketMQ calls them.
    (message,) = Reader(driver, server, f"%DLQ%{group}").take(1)
    assert (message["body"], message["tag"], message["properties"]) == ("hopeless", "t", {"tenant": "blue"})


@pytest.mark.languages(*FULL)
def test_fifo_consumer_keeps_the_order(server, driver, language):
    """A group of `rocketmq.fifo_groups`: the library tries again by itself before it gives up."""
    topic, group = fresh("line"), f"fifo-{language}"
    configure(server, group, 2)
    name = push(driver, server, topic, group, fail=1)
    producer = Producer(driver, server, topic)
    for body in ("one", "two", "three"):
        producer.send(body, group="line")
    driver.until(lambda events: driver_bodies(events, name).count("three") == 2, "last message")
    assert driver.bodies(name) == ["one", "one", "two", "two", "three", "three"]


@pytest.mark.languages(*FULL)
def test_fifo_consumer_gives_up_in_the_end_and_goes_on(server, driver, language):
    topic, group = fresh("line"), f"fifo-end-{language}"
    configure(server, group, 2)
    name = push(driver, server, topic, group, fail=2)
    producer = Producer(driver, server, topic)
    producer.send("hopeless", group="line")
    (letter,) = eventually(lambda: dead_letters(server, group), "a dead letter")
    # This library does not tell of the attempts it made by itself.
    assert letter["origin"]["attempts"] == (1 if language == "python" else 2), letter
    assert "gave it up" in letter["origin"]["reason"], letter
    assert driver.bodies(name) == ["hopeless"] * 2
    producer.send("next", group="line")
    driver.until(lambda events: "next" in driver_bodies(events, name), "next of the line")


@pytest.mark.languages(*FULL)
def test_push_consumer_keeps_what_it_works_on_and_loses_it_when_it_dies(server, driver, own_driver, language):
    topic, group = fresh("work"), fresh("workers")
    worker = own_driver(language)
    # Longer than the lease of 4 s.
    name = push(worker, server, topic, group, hold_s=7)
    Producer(driver, server, topic).send("slow")
    worker.event("message", "slow")
    eventually(lambda: server.cli("group", "describe", group)[0]["topics"][0]["in_flight"] == 0, "the ack")
    assert worker.bodies(name) == ["slow"]
    Producer(driver, server, topic).send("orphaned")
    worker.event("message", "orphaned")
    worker.kill()
    heir = push(driver, server, topic, group)
    message = driver.event("message", "orphaned")
    assert message["attempt"] == 2


@pytest.mark.languages(*FULL)
def test_push_consumer_filters_by_tag(server, driver):
    topic = fresh("chosen")
    name = push(driver, server, topic, fresh("choosers"), filter="a || b")
    producer = Producer(driver, server, topic)
    for tag in ("c", "b", "a"):
        producer.send(tag, tag=tag)
    driver.until(lambda events: {"a", "b"} <= set(driver_bodies(events, name)), "both tags")
    assert sorted(driver.bodies(name)) == ["a", "b"]


def driver_bodies(events, name):
    return [e["body"] for e in events if e["event"] == "message" and e["consumer"] == name]
