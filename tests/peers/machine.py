"""The machine that everything runs on: processes, ports, and what a server uses of it."""
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run(*command, **options):
    return subprocess.run(list(map(str, command)), check=True, text=True, **options)


def isolate():
    """Into a network with nothing but loopback, so that no port is open to anybody."""
    if os.environ.get("PEERS_ISOLATED") or not shutil.which("unshare"):
        return
    inner = 'ip link set lo up && exec "$@"'
    command = ["unshare", "--net", "sh", "-c", inner, "sh", sys.executable, *sys.argv]
    if subprocess.run(["unshare", "--net", "sh", "-c", "ip link set lo up"], capture_output=True).returncode == 0:
        os.environ["PEERS_ISOLATED"] = "1"
        os.execvp(command[0], command)
    say("no network of our own can be made here: the ports listen on loopback as far as the peers can be told")


def free_ports(count):
    """A row of free ports: a broker takes its neighbours, too."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            base = first.getsockname()[1]
        try:
            held = [socket.create_server(("127.0.0.1", base + step)) for step in range(count)]
        except OSError:
            continue
        for one in held:
            one.close()
        return base


def written_to_disk():
    """Bytes that the disk under the work folder has taken, from whomever: what a process is charged with counts whole
    large pages of the cache for every small write into them."""
    device = os.stat(TARGET).st_dev
    for line in open("/proc/diskstats"):
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
            return 512 * int(fields[9])
    return 0


class Usage:
    """What a server's processes have used so far."""

    def __init__(self, pids):
        self.cpu = self.resident_max = self.anonymous = 0
        self.written = written_to_disk()
        for pid in pids:
            proc = Path(f"/proc/{pid}")
            fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
            self.cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            self.resident_max += int(status["VmHWM"].split()[0]) * 1024
            self.anonymous += int(status["RssAnon"].split()[0]) * 1024


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(path):
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""


def described():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    java = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[0]
    return f"{os.cpu_count()} cores ({model}), {memory / 2**20:.0f} GiB, Linux {platform.release()}; {java}"
