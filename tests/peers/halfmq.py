"""HalfMQ, driven by its own `halfmq bench` or by RocketMQ's client."""
import json
import subprocess

from machine import TARGET, Usage, end, run

BINARY = TARGET / "release" / "halfmq"


def bench(*flags):
    return json.loads(run(BINARY, "bench", "--json", *flags, stdout=subprocess.PIPE).stdout)


def engine_alone(folder, transactions, in_flight, size):
    return bench("--engine-only", "--data", folder, "--transactions", transactions, "--in-flight", in_flight,
                 "--size", size)


class HalfMq:
    def __init__(self, folder):
        command = [BINARY, "serve", "--json", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data",
                   folder / "data", "--set", "log.filter=warn"]
        self.folder = folder
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.bound = json.loads(self.process.stdout.readline())
        self.endpoint = self.bound["grpc"]

    def pids(self):
        return [self.process.pid]

    def logs(self):
        return []

    def create_topics(self, topics):
        """They are made when they are first used."""

    def ask(self, transactions, in_flight, size, *flags):
        before = Usage(self.pids())
        report = bench("--endpoint", f"http://{self.endpoint}", "--metrics", self.bound["http"], "--transactions",
                       transactions, "--in-flight", in_flight, "--size", size, *flags)
        return report, before, Usage(self.pids())

    def close(self):
        end(self.process)
