"""A stranger's client: plain grpcio and the .proto files, nothing of ours.

HALFMQ_BIN names the binary. Nothing here sleeps; timeouts are bounds only.
"""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf import duration_pb2
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"
PATIENCE_S = 30
CHECKS_SOON = {
    "HALFMQ_CHECKS__FIRST_AFTER": "200ms",
    "HALFMQ_CHECKS__INTERVAL": "200ms",
    "HALFMQ_CHECKS__INTERVAL_MAX": "400ms",
}


@pytest.fixture(scope="session")
def wire(tmp_path_factory):
    """Modules generated from the .proto files."""
    out = tmp_path_factory.mktemp("stubs")
    files = sorted(str(path) for path in PROTO.glob("halfmq/v1/*.proto"))
    assert files, f"no .proto files in {PROTO}"
    well_known = importlib.import_module("grpc_tools").__path__[0] + "/_proto"
    code = protoc.main(
        ["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}", *files]
    )
    assert code == 0, "protoc failed"
    sys.path.insert(0, str(out))
    names = {}
    for path in PROTO.glob("halfmq/v1/*.proto"):
        for suffix in ("pb2", "pb2_grpc"):
            names[f"{path.stem}_{suffix}"] = importlib.import_module(f"halfmq.v1.{path.stem}_{suffix}")
    return SimpleNamespace(**names)


@pytest.fixture
def halfmq(wire, tmp_path):
    """Stubs of a running coordinator."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HALFMQ_")}
    arguments = ["serve", "--json", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    log = tmp_path / "stderr.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [os.environ["HALFMQ_BIN"], *arguments, "--data", str(tmp_path / "data")],
            env=environment | CHECKS_SOON,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert line, f"it did not start:\n{log.read_text()}"
        with grpc.insecure_channel(json.loads(line)["grpc"]) as channel:
            stubs = SimpleNamespace(
                transactions=wire.transaction_pb2_grpc.TransactionsStub(channel),
                queues=wire.queue_pb2_grpc.QueuesStub(channel),
                admin=wire.admin_pb2_grpc.AdminStub(channel),
            )
            stubs.admin.CreateTopic(
                wire.admin_pb2.CreateTopicRequest(topic="orders", queues=1), timeout=PATIENCE_S
            )
            yield stubs
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def prepare(wire, halfmq, body):
    message = wire.message_pb2.Message(topic="orders", body=body, headers={"tenant": "blue"})
    request = wire.transaction_pb2.PrepareRequest(
        producer_group="shop", producer_instance="python-1", messages=[message]
    )
    return halfmq.transactions.Prepare(request, timeout=PATIENCE_S)


def commit(wire, halfmq, transaction_id):
    request = wire.transaction_pb2.CommitRequest(transaction_id=transaction_id)
    return halfmq.transactions.Commit(request, timeout=PATIENCE_S)


def rollback(wire, halfmq, transaction_id):
    request = wire.transaction_pb2.RollbackRequest(transaction_id=transaction_id)
    return halfmq.transactions.Rollback(request, timeout=PATIENCE_S)


def receive(wire, halfmq, wait_s=0):
    request = wire.queue_pb2.ReceiveRequest(
        topic="orders", group="billing", max_messages=10, wait=duration_pb2.Duration(seconds=wait_s)
    )
    return list(halfmq.queues.Receive(request, timeout=PATIENCE_S + wait_s).deliveries)


def reason(error):
    return dict(error.value.trailing_metadata()).get("halfmq-reason")


def test_committed_message_is_received_and_acked(wire, halfmq):
    prepared = prepare(wire, halfmq, b"o-1")
    assert receive(wire, halfmq) == [], "nobody may see a half message"

    receipt = commit(wire, halfmq, prepared.transaction_id)
    assert receipt.decision == wire.transaction_pb2.DECISION_COMMIT
    assert commit(wire, halfmq, prepared.transaction_id) == receipt, "the same again is the same receipt"

    (delivery,) = receive(wire, halfmq, wait_s=10)
    assert delivery.message.body == b"o-1"
    assert delivery.message.headers == {"tenant": "blue"}
    assert delivery.message_id == prepared.message_ids[0]
    assert delivery.place == receipt.messages[0].place

    ack = wire.queue_pb2.AckRequest(topic="orders", group="billing", receipt_handles=[delivery.receipt_handle])
    assert [result.ok for result in halfmq.queues.Ack(ack, timeout=PATIENCE_S).results] == [True]
    topic = halfmq.admin.DescribeTopic(
        wire.admin_pb2.DescribeTopicRequest(topic="orders"), timeout=PATIENCE_S
    )
    assert topic.groups[0].undelivered == 0


def test_rolled_back_message_is_never_seen(wire, halfmq):
    dropped = prepare(wire, halfmq, b"dropped")
    assert rollback(wire, halfmq, dropped.transaction_id).decision == wire.transaction_pb2.DECISION_ROLLBACK
    kept = prepare(wire, halfmq, b"kept")
    commit(wire, halfmq, kept.transaction_id)
    assert [delivery.message.body for delivery in receive(wire, halfmq, wait_s=10)] == [b"kept"]


def test_lost_commit_is_found_by_a_check(wire, halfmq):
    pb = wire.transaction_pb2
    requests = queue.SimpleQueue()
    registration = pb.Registration(producer_group="shop", producer_instance="python-1", has_checker=True)
    requests.put(pb.ChecksRequest(registration=registration))
    stream = halfmq.transactions.Checks(iter(requests.get, None), timeout=PATIENCE_S)
    assert next(stream).WhichOneof("kind") == "registered"

    prepared = prepare(wire, halfmq, b"o-1")
    assert list(prepared.warnings) == []
    question = next(stream).question
    assert question.transaction_id == prepared.transaction_id
    assert [message.body for message in question.messages] == [b"o-1"]
    answer = pb.CheckAnswer(transaction_id=question.transaction_id, resolution=pb.RESOLUTION_COMMIT)
    requests.put(pb.ChecksRequest(answer=answer))

    (delivery,) = receive(wire, halfmq, wait_s=10)
    assert delivery.message.body == b"o-1"
    described = halfmq.transactions.DescribeTransaction(
        pb.DescribeTransactionRequest(transaction_id=prepared.transaction_id), timeout=PATIENCE_S
    )
    assert described.decided_by == pb.DECIDED_BY_CHECK
    requests.put(None)
    stream.cancel()


def test_refusals_are_typed(wire, halfmq):
    decided = prepare(wire, halfmq, b"o-1").transaction_id
    rollback(wire, halfmq, decided)
    with pytest.raises(grpc.RpcError) as error:
        commit(wire, halfmq, decided)
    assert (error.value.code(), reason(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REASON_DECISION_CONFLICT",
    )

    with pytest.raises(grpc.RpcError) as error:
        commit(wire, halfmq, "01890000-0000-7000-8000-000000000000")
    assert (error.value.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "REASON_UNKNOWN_TRANSACTION")

    with pytest.raises(grpc.RpcError) as error:
        commit(wire, halfmq, "not-a-uuid")
    assert (error.value.code(), reason(error)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REASON_INVALID_ARGUMENT",
    )
    assert error.value.details(), "a refusal says something to people too"
