"""Half messages of every client library: decided, asked about, and never lost."""

import pytest
from conftest import Reader, Refused, eventually, fresh


SILENT = ("java", "node")


class Producer:
    def __init__(self, driver, server, topic):
        self.driver, self.topic, self.name = driver, topic, fresh("producer")
        driver.do("producer", name=self.name, endpoint=server.grpc, topics=[topic])

    def half(self, body, **fields):
        return self.driver.do("half", producer=self.name, topic=self.topic, body=body, **fields)

    def end(self, half, resolution):
        self.driver.do("end", tx=half["tx"], resolution=resolution)

    def close(self):
        self.driver.do("close", name=self.name)


def open_transactions(server, topic):
    listed = server.cli("tx", "list")
    rows = [row for page in listed for row in (page if isinstance(page, list) else page.get("transactions", [page]))]
    return [row for row in rows if row.get("producer_group") == f"rocketmq.{topic}"]


def test_committed_half_message_is_delivered_and_rolled_back_one_is_not(server, driver):
    topic = fresh("orders")
    producer = Producer(driver, server, topic)
    rolled_back = producer.half("rolled back")
    committed = producer.half("committed", tag="new", keys=["k1"], properties={"tenant": "blue"})
    producer.end(rolled_back, "ROLLBACK")
    producer.end(committed, "COMMIT")
    reader = Reader(driver, server, topic)
    (message,) = reader.take(1)
    assert (message["body"], message["tag"], message["keys"]) == ("committed", "new", ["k1"])
    assert message["properties"] == {"tenant": "blue"}
    assert message["message_id"] == committed["message_id"]
    assert not message.get("corrupted")
    assert open_transactions(server, topic) == []
    producer.close()
    reader.close()


@pytest.mark.parametrize("answer", ["COMMIT", "ROLLBACK"])
def test_check_is_asked_again_until_the_producer_knows(server, driver, language, answer):
    topic = fresh("asked")
    driver.do("answer", value="UNKNOWN")
    producer = Producer(driver, server, topic)
    body = fresh("forgotten")
    producer.half(body)
    asked = lambda events: [e for e in events if e["event"] == "check" and e["body"] == body]
    driver.until(lambda events: len(asked(events)) > 1, "second check")
    (row,) = open_transactions(server, topic)
    # Two libraries say nothing when their checker does not know: that is no answer, and not counted.
    assert (row["checks_answered"] == 0) == (language in SILENT), row
    assert row["state"] == "prepared"
    driver.do("answer", value=answer)
    eventually(lambda: not open_transactions(server, topic), "a decision")
    witness = producer.half("witness")
    producer.end(witness, "COMMIT")
    bodies = [message["body"] for message in Reader(driver, server, topic).take(2 if answer == "COMMIT" else 1)]
    assert sorted(bodies) == sorted(["witness"] + [body] * (answer == "COMMIT"))
    driver.do("answer", value="COMMIT")
    producer.close()


def test_another_instance_answers_for_a_killed_producer(server, driver, own_driver, language):
    topic = fresh("orphans")
    victim = own_driver(language)
    body = fresh("orphan")
    Producer(victim, server, topic).half(body)
    victim.kill()
    other = Producer(driver, server, topic)
    driver.event("check", body)
    (message,) = Reader(driver, server, topic).take(1)
    assert message["body"] == body
    other.close()


def test_decision_reaches_a_coordinator_that_was_killed_meanwhile(own_server, own_driver, language):
    server, topic = own_server(HALFMQ_CHECKS__FIRST_AFTER="1h"), fresh("restarts")
    driver = own_driver(language)
    producer = Producer(driver, server, topic)
    half = producer.half("survivor")
    server.kill()
    server.start()

    # Its connection has to come back first; an error says that nothing was decided, so it tries again.
    def ended():
        try:
            producer.end(half, "COMMIT")
        except Refused:
            return False
        return True

    eventually(ended, "the commit")
    (message,) = Reader(driver, server, topic).take(1)
    assert message["body"] == "survivor"


@pytest.mark.languages("java", "node", "python")
def test_producer_hears_checks_again_after_the_coordinator_was_killed(own_server, own_driver, language):
    """Two libraries come back by themselves; Python's does because its next route tells it to."""
    server, topic = own_server(), fresh("heard")
    driver = own_driver(language)
    body = fresh("pending")
    producer = Producer(driver, server, topic)
    server.kill()
    server.start()
    eventually(lambda: sent_again(producer, body), "a half message")
    driver.event("check", body, patience_s=100)
    (message,) = Reader(driver, server, topic).take(1)
    assert message["body"] == body


def sent_again(producer, body):
    try:
        return producer.half(body)
    except Refused:
        return None


def test_producer_that_is_out_of_reach_costs_no_check(own_server, own_driver, language):
    """After a restart some libraries do not listen for minutes, one never: their checks wait, uncounted."""
    server, topic = own_server(), fresh("blind")
    driver = own_driver(language)
    driver.do("answer", value="COMMIT")
    body = fresh("waiting")
    Producer(driver, server, topic).half(body)
    server.kill()
    driver.kill()
    server.start()
    (row,) = open_transactions(server, topic)
    assert (row["checks_answered"], row["state"]) == (0, "prepared")
    other = own_driver(language)
    Producer(other, server, topic)
    other.event("check", body)
    eventually(lambda: not open_transactions(server, topic), "a decision")


def test_first_decision_stands(server, driver):
    topic = fresh("decided")
    producer = Producer(driver, server, topic)
    half = producer.half("once")
    (row,) = open_transactions(server, topic)
    server.cli("tx", "rollback", row["transaction_id"], "--reason", "by hand")
    with pytest.raises(Refused, match="40008|INVALID_TRANSACTION_ID|[Rr]oll"):
        producer.end(half, "COMMIT")
    producer.close()
