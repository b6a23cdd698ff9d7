"""A real coordinator, and a driver for each language whose client library is installed.

`tests/run` sets HALFMQ_BIN and, for each language, DRIVER_<LANGUAGE>: the command that starts its driver.
Nothing here sleeps: stories wait for events and states, and timeouts are bounds only.
"""

import itertools
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

PATIENCE_S = 40
LANGUAGES = ("java", "go", "python", "node", "rust")
# A library that only produces transactions and consumes simply; the others can do everything.
PLAIN_ONLY = ("rust",)
SOON = {
    "HALFMQ_CHECKS__FIRST_AFTER": "1s",
    "HALFMQ_CHECKS__INTERVAL": "300ms",
    "HALFMQ_CHECKS__INTERVAL_MAX": "1s",
    "HALFMQ_CHECKS__ANSWER_TIMEOUT": "2s",
    "HALFMQ_ROCKETMQ__PUSH_INVISIBLE": "4s",
    "HALFMQ_ROCKETMQ__FIFO_GROUPS": ",".join(f"fifo-{kind}" for language in LANGUAGES for kind in (language, f"end-{language}")),
}
NUMBERS = itertools.count(1)


def command_of(language):
    return os.environ.get(f"DRIVER_{language.upper()}")


def installed(languages=LANGUAGES):
    """Languages to tell a story in; none installed is an error of whoever runs this."""
    found = [language for language in languages if command_of(language)]
    assert any(map(command_of, LANGUAGES)), "no DRIVER_<LANGUAGE> is set; run this by tests/run"
    return found


def fresh(prefix):
    """A name that no other story uses."""
    return f"{prefix}-{next(NUMBERS)}"


class Refused(Exception):
    """The library threw."""


class Driver:
    """One process around one client library."""

    def __init__(self, language, log):
        self.language, self.log = language, log
        self.process = subprocess.Popen(
            shlex.split(command_of(language)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("a"),
            # Libraries keep logs in the home folder.
            env=os.environ | {"HOME": str(log.parent), "rocketmq.client.logRoot": str(log.parent / "logs")},
            text=True,
        )
        self.numbers = itertools.count(1)
        self.lock = threading.Condition()
        self.answers, self.events = {}, []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # the library talks
            with self.lock:
                if "id" in said:
                    self.answers[said["id"]] = said
                else:
                    self.events.append(said)
                self.lock.notify_all()
        with self.lock:
            self.answers[None] = "ended"
            self.lock.notify_all()

    def begin(self, op, **fields):
        """Sends a command; `answer` waits for what it brings."""
        number = next(self.numbers)
        self.process.stdin.write(json.dumps({"id": number, "op": op} | fields) + "\n")
        self.process.stdin.flush()
        return number

    def answer(self, number, patience_s=PATIENCE_S):
        with self.lock:
            arrived = self.lock.wait_for(lambda: number in self.answers or None in self.answers, patience_s)
            assert arrived and number in self.answers, f"the {self.language} driver says nothing:\n{self.tail()}"
            answer = self.answers.pop(number)
        if "error" in answer:
            raise Refused(f"{answer['error']['type']}: {answer['error']['text']}")
        return answer

    def do(self, op, **fields):
        return self.answer(self.begin(op, **fields))

    def until(self, found, what, patience_s=PATIENCE_S):
        """Waits until `found(events)` is something, and returns it."""
        with self.lock:
            self.lock.wait_for(lambda: found(self.events), patience_s)
            return found(self.events) or pytest.fail(f"{self.language}: no {what}; {self.events}\n{self.tail()}")

    def event(self, kind, body, patience_s=PATIENCE_S):
        wanted = lambda events: [e for e in events if e["event"] == kind and e["body"] == body]
        return self.until(wanted, f"{kind} of {body}", patience_s)[0]

    def bodies(self, consumer):
        with self.lock:
            return [e["body"] for e in self.events if e["event"] == "message" and e["consumer"] == consumer]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


class Server:
    """`halfmq serve` with a folder of its own."""

    def __init__(self, home, **settings):
        self.home, self.settings = home, SOON | settings
        self.grpc, self.http, self.process = "127.0.0.1:0", "127.0.0.1:0", None
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "server.log"

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HALFMQ_")}
        arguments = ["serve", "--json", "--grpc", self.grpc, "--http", self.http, "--data", str(self.home / "data")]
        self.process = subprocess.Popen(
            [os.environ["HALFMQ_BIN"], *arguments],
            env=environment | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, f"it did not start:\n{self.log.read_text()}"
        bound = json.loads(line)
        self.grpc, self.http = bound["grpc"].removeprefix("http://"), bound["http"].removeprefix("http://")
        return self

    def kill(self):
        """kill -9"""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=PATIENCE_S) == 0, self.log.read_text()
        self.process.stdout.close()

    def cli(self, *arguments, check=True):
        """Runs a command of the binary and returns what it prints as JSON."""
        done = subprocess.run(
            [os.environ["HALFMQ_BIN"], *arguments, "--endpoint", f"http://{self.grpc}", "--json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def eventually(found, what, patience_s=PATIENCE_S):
    """Asks until `found()` is something. What it asks takes time itself, so this is not a busy loop."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        result = found()
        if result:
            return result
    raise AssertionError(f"not seen in {patience_s} s: {what}")


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("rocketmq")


@pytest.fixture(scope="session")
def server(home):
    """Shared by all stories that do not break it; each uses names of its own."""
    server = Server(home / "shared").start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path):
    """For stories that break it, or want other settings."""
    servers = []

    def start(**settings):
        servers.append(Server(tmp_path / fresh("server"), **settings).start())
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def shared_drivers(home):
    drivers = {}
    yield lambda language: drivers.setdefault(language, None) or drivers.update(
        {language: Driver(language, home / f"{language}.log")}
    ) or drivers[language]
    for driver in drivers.values():
        driver.kill()


@pytest.fixture
def driver(shared_drivers, language):
    return shared_drivers(language)


@pytest.fixture
def own_driver(tmp_path):
    """A process that a story may kill."""
    drivers = []

    def start(language):
        drivers.append(Driver(language, tmp_path / f"{fresh(language)}.log"))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()


class Reader:
    """A simple consumer of one language in one group."""

    def __init__(self, driver, server, topic, group=None, **fields):
        self.driver, self.name, self.group = driver, fresh("reader"), group or fresh("readers")
        fields = {"await_s": 5} | fields
        driver.do("simple", name=self.name, endpoint=server.grpc, group=self.group, topic=topic, **fields)

    def receive(self, count=16, invisible_s=30):
        return self.driver.do("receive", consumer=self.name, max=count, invisible_s=invisible_s)["messages"]

    def take(self, count):
        """So many messages, acked."""
        taken = []
        for _ in range(PATIENCE_S):
            for message in self.receive():
                self.driver.do("ack", token=message["token"])
                taken.append(message)
            if len(taken) >= count:
                return taken
        raise AssertionError(f"{len(taken)} of {count} messages: {taken}")

    def close(self):
        self.driver.do("close", name=self.name)


def pytest_generate_tests(metafunc):
    if "language" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("languages")
        # One process for each language, so that they do not wait for each other.
        alone = lambda language: pytest.param(language, marks=pytest.mark.xdist_group(language))
        metafunc.parametrize("language", list(map(alone, installed(only.args if only else LANGUAGES))))


def pytest_configure(config):
    config.addinivalue_line("markers", "languages(*names): the languages this story is told in")
