"""Apache RocketMQ at its best, with and without its proxy, and the load through its own Java clients."""
import json
import shutil
import subprocess
import sys
import time

from machine import HERE, ROOT, TARGET, Usage, end, free_ports, run, say, tail

JAVA = HERE / "rocketmq/src/main/java"
OPENS = ["java.base/java.nio", "java.base/sun.nio.ch", "java.base/java.lang", "java.base/java.util",
         "java.base/jdk.internal.ref"]
START_SECONDS = 60


class Jars:
    """A client with its load, fetched from Maven Central as its pom.xml says and compiled."""

    def __init__(self, name, project, door, *properties):
        self.folder, self.project, self.door, self.properties = TARGET / "peers" / name, project, door, properties

    def fetch(self):
        complete, wanted = self.folder / "complete", (self.project / "pom.xml").read_text()
        if not complete.exists() or complete.read_text() != wanted:
            say(f"fetching {self.folder.name}")
            shutil.rmtree(self.folder, ignore_errors=True)
            run("mvn", "-B", "-q", *self.properties, "dependency:copy-dependencies",
                f"-DoutputDirectory={self.folder}", cwd=self.project)
            complete.write_text(wanted)
        run("javac", "-cp", f"{self.folder}/*", "-d", self.folder / "load", JAVA / "Load.java", JAVA / self.door)

    def java(self, heap, home, main, *arguments, **options):
        opens = [f"--add-{kind}={name}=ALL-UNNAMED" for name in OPENS for kind in ("opens", "exports")]
        command = ["java", f"-Xms{heap}", f"-Xmx{heap}", *opens, f"-Duser.home={home}", f"-Drocketmq.home.dir={home}",
                   "-cp", f"{self.folder}/load:{self.folder}/*", main, *map(str, arguments)]
        return subprocess.Popen(command, **options)


def classic(version):
    """The server, its proxy, its tools and its classic client."""
    return Jars(f"rocketmq-{version}", HERE / "rocketmq", "Remoting.java", f"-Drocketmq.version={version}")


def five():
    """The RocketMQ 5 client, of the release that HalfMQ is tested with."""
    return Jars("rocketmq-client-java", ROOT / "tests/rocketmq/java", "Grpc.java")


class RocketMq:
    """Name server and broker; its endpoint is for the classic client."""

    DELIVERY = ["timerWheelEnable=false"]

    def __init__(self, jars, flush, folder):
        self.jars, self.folder = jars, folder
        base = free_ports(6)
        self.endpoint = self.namesrv = f"127.0.0.1:{base}"
        (folder / "namesrv.conf").write_text(f"listenPort={base}\nbindAddress=127.0.0.1\n")
        (folder / "broker.conf").write_text("\n".join(self.settings(flush, base + 3)))
        self.launched = time.time()
        names = self.start("256m", "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", folder / "namesrv.conf")
        self.processes = [names, self.start_broker()]

    def settings(self, flush, port):
        return ["brokerClusterName=peers", "brokerName=peers", "brokerId=0", "brokerIP1=127.0.0.1",
                f"namesrvAddr={self.namesrv}", f"listenPort={port}", f"haListenPort={port + 1}",
                "bindAddress=127.0.0.1", "brokerRole=ASYNC_MASTER", f"flushDiskType={flush}",
                f"storePathRootDir={self.folder}/store", f"storePathCommitLog={self.folder}/store/commitlog",
                "dataReadAheadEnable=false", "autoCreateTopicEnable=true", *self.DELIVERY, ""]

    def start(self, heap, main, *arguments):
        log = open(self.folder / f"{main.rsplit('.', 1)[1]}.log", "w")
        return self.jars.java(heap, self.folder, main, *arguments, stdout=log, stderr=log)

    def start_broker(self):
        return self.start("2g", "org.apache.rocketmq.broker.BrokerStartup", "-c", self.folder / "broker.conf")

    def pids(self):
        return [process.pid for process in self.processes]

    def logs(self):
        return sorted(self.folder.glob("*Startup.log"))

    def create_topics(self, topics):
        """They are made when they are first used."""

    def close(self):
        for process in reversed(self.processes):
            end(process)


class Proxied(RocketMq):
    """A proxy with the broker inside, in one process; its endpoint is for the RocketMQ 5 client."""

    # Timers bring back what is not acked; without them it delivers nothing to these consumers. What is acked soon is
    # kept track of in memory, not by two more messages: that took p99 from 3.8 to 0.2 s, at 16 in flight.
    DELIVERY = ["timerWheelEnable=true", "enablePopBufferMerge=true"]

    def start_broker(self):
        port = free_ports(2)
        self.endpoint = f"127.0.0.1:{port}"
        (self.folder / "proxy.json").write_text(json.dumps({
            "rocketMQClusterName": "peers", "namesrvAddr": self.namesrv, "localServeAddr": "127.0.0.1",
            "grpcServerPort": port, "remotingListenPort": port + 1}))
        return self.start("2g", "org.apache.rocketmq.proxy.ProxyStartup", "-pm", "LOCAL", "-bc",
                          self.folder / "broker.conf", "-pc", self.folder / "proxy.json")

    def create_topics(self, topics):
        """They have to say that they are for transactions."""
        for topic in topics:
            while not self.creates(topic):
                if time.time() > self.launched + START_SECONDS:
                    sys.exit(f"RocketMQ does not create {topic}:\n" + "\n".join(map(tail, self.logs())))

    def creates(self, topic):
        admin = self.jars.java("128m", self.folder, "org.apache.rocketmq.tools.command.MQAdminStartup", "updateTopic",
                               "-n", self.namesrv, "-c", "peers", "-t", topic, "-a", "+message.type=TRANSACTION",
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return "success" in admin.communicate()[0]


def load(jars, server, size, window, warm_up, plan):
    """Warms client and server up, and yields for each line of the plan its report and what the server used."""
    runs = [(warm_up, 64), *((transactions, in_flight) for in_flight, transactions in plan.items())]
    lines = [f"load-{number} {transactions} {in_flight}" for number, (transactions, in_flight) in enumerate(runs)]
    server.create_topics(line.split()[0] for line in lines)
    log = server.folder / "load.log"
    client = jars.java("1g", server.folder, jars.door.removesuffix(".java"), server.endpoint, size, window,
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "w"), text=True)
    try:
        for line in lines:
            before = Usage(server.pids())
            client.stdin.write(f"{line}\n")
            client.stdin.flush()
            answer = next((told for told in client.stdout if told.startswith("{")), None)
            if not answer:
                sys.exit("the load ended:\n" + "\n".join(map(tail, [log, *server.logs()])))
            if line is not lines[0]:
                yield int(line.split()[2]), json.loads(answer), before, Usage(server.pids())
    finally:
        client.stdin.close()
        end(client)


def first_send(jars, folder):
    """Seconds from launch to the first transactional send; its client waits warm in the meantime."""
    broker = RocketMq(jars, "SYNC_FLUSH", folder)
    client = jars.java("512m", folder, "Remoting", "first", broker.namesrv, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, text=True)
    try:
        lines = [line for line in client.stdout if line.strip().isdigit()]
        return int(lines[0]) / 1000 - broker.launched
    finally:
        end(client)
        broker.close()
