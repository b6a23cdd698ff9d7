"""What was measured, and the tables of it in RESULTS.md and README.md."""
import statistics
import subprocess
import sys
import time

from halfmq import BINARY
from machine import HERE, ROOT, described, run, say

BYTES, WINDOW = 1024, 1000
# How many times as long the engine takes as a bare append log: for the same groups, and under the same load.
GROUPS, LOAD = "engine_to_bare_log", "engine_to_bare_log_same_load"
# The columns of the first table, and those of the RocketMQ 5 client.
SYNC, UNSYNCED, FAST, UNARY = "RocketMQ SYNC_FLUSH", "RocketMQ ASYNC_FLUSH", "HalfMQ streams", "HalfMQ unary calls"
PROXIED, DOOR = "RocketMQ with its proxy", "HalfMQ with the RocketMQ 5 client"


class Results:
    """Of all rounds: rows by (server, in flight)."""

    def __init__(self):
        self.rows, self.memory, self.first, self.engine = {}, {}, {}, {}

    def add(self, name, in_flight, report, before, after):
        if report["missing"] or report["double"]:
            say(f"{name}: {report['missing']} missing, {report['double']} double")
        transactions = report["transactions"]
        row = {"rate": report["transactions_per_second"], "p50": report["end_to_end_ms"]["p50"],
               "p99": report["end_to_end_ms"]["p99"], "prepare": report["prepare_ms"]["p50"],
               "cpu": 1e6 * (after.cpu - before.cpu) / transactions,
               "written": (after.written - before.written) / transactions,
               "journal": report.get("journal_bytes_per_transaction"),
               "syncs": report.get("journal_syncs_per_transaction"),
               "missing": report["missing"], "double": report["double"], "checked": report.get("checked", 0)}
        self.rows.setdefault((name, in_flight), []).append(row)
        say(f"{name}, {in_flight} in flight: {row['rate']:.0f}/s, end to end {row['p50']:.2f}/{row['p99']:.2f} ms")

    def add_engine(self, in_flight, report):
        self.engine.setdefault(in_flight, []).append(report)
        say(f"the engine alone, {in_flight} in flight: {report['transactions_per_second']:.0f}/s, "
            f"{report[GROUPS]:.2f} times as long as its groups take")

    def engine_runs(self):
        return min(map(len, self.engine.values()))

    def of_engine(self, in_flight, what):
        return statistics.median(report[what] for report in self.engine[in_flight])

    def remember(self, name, usage):
        self.memory.setdefault(name, []).append((usage.resident_max, usage.anonymous))

    def median(self, name, in_flight, what):
        rows = self.rows.get((name, in_flight), [])
        return statistics.median(row[what] for row in rows) if rows else None

    def peak(self, name):
        levels = [in_flight for server, in_flight in self.rows if server == name]
        return max((self.median(name, in_flight, "rate"), in_flight) for in_flight in levels)


def number(value, digits=0):
    return "–" if value is None else f"{value:,.{digits}f}"


def cell(results, name, level):
    if (name, level) not in results.rows:
        return ""
    rate, p50, p99 = (results.median(name, level, what) for what in ("rate", "p50", "p99"))
    return f"{number(rate)} ({number(p50, 1)}/{number(p99, 1)})"


def table(results):
    columns = (SYNC, UNSYNCED, FAST, UNARY)
    lines = [f"| in flight | {' | '.join(columns)} | streams / SYNC_FLUSH |", "|---|---|---|---|---|---|"]
    for level in sorted({level for name, level in results.rows if name in columns}):
        own, peer = results.median(FAST, level, "rate"), results.median(SYNC, level, "rate")
        ratio = f"{own / peer:.1f}" if own and peer else ""
        cells = [str(level), *(cell(results, name, level) for name in columns), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def five(results):
    """The RocketMQ 5 client: both servers, and whether HalfMQ is ahead at each level."""
    levels = sorted(level for name, level in results.rows if name == DOOR)
    ratios = {level: [results.median(DOOR, level, what) / results.median(PROXIED, level, what)
                      for what in ("rate", "p99")] for level in levels}
    lines = [f"| in flight | {PROXIED} | {DOOR} | transactions/s, HalfMQ / RocketMQ | p99, HalfMQ / RocketMQ |",
             "|---|---|---|---|---|"]
    lines += [f"| {level} | {cell(results, PROXIED, level)} | {cell(results, DOOR, level)} | "
              f"{rate:.2f} | {p99:.3f} |" for level, (rate, p99) in ratios.items()]
    lines += ["", "| against RocketMQ with its proxy | goal | measured | |", "|---|---|---|---|"]
    for level, (rate, p99) in ratios.items():
        for what, goal, ratio, met in [("transactions/s", "more than 1 time", rate, rate > 1),
                                       ("p99 end to end", "less than 1 time", p99, p99 < 1)]:
            lines.append(f"| {what}, {level} in flight | {goal} | {ratio:.2f} | {'met' if met else 'missed'} |")
    return lines


def goals(results):
    of = lambda name, level, what: results.median(name, level, what) or float("nan")
    memory = {name: statistics.median(both[0] for both in seen) for name, seen in results.memory.items()}
    first = {name: statistics.median(seen) for name, seen in results.first.items()}
    (peer_peak, peer_at), (own_peak, own_at) = results.peak(SYNC), results.peak(FAST)
    facts = [
        (f"peak (at {own_at} and {peer_at} in flight)", "10 times", own_peak / peer_peak, lambda it: it >= 10),
        ("64 in flight", "5 times", of(FAST, 64, "rate") / of(SYNC, 64, "rate"), lambda it: it >= 5),
        ("16 in flight", "2 times", of(FAST, 16, "rate") / of(SYNC, 16, "rate"), lambda it: it >= 2),
        ("1 in flight", "1 time", of(FAST, 1, "rate") / of(SYNC, 1, "rate"), lambda it: it >= 1),
        ("unary calls, 64 in flight", "3 times", of(UNARY, 64, "rate") / of(SYNC, 64, "rate"), lambda it: it >= 3),
        ("p99 end to end, 64 in flight", "0.1 times", of(FAST, 64, "p99") / of(SYNC, 64, "p99"), lambda it: it <= 0.1),
        ("resident memory at its highest", "0.1 times", memory["HalfMQ"] / memory[SYNC], lambda it: it <= 0.1)]
    lines = ["| against RocketMQ SYNC_FLUSH | goal | measured | |", "|---|---|---|---|"]
    lines += [f"| {what} | {goal} | {value:.2f} | {'met' if met(value) else 'missed'} |"
              for what, goal, value, met in facts]
    journal, engine = of(FAST, 64, "journal"), results.of_engine(64, GROUPS)
    lines += [f"| launch to first transaction | 0.3 s | {first['HalfMQ']:.2f} s (RocketMQ {first['RocketMQ']:.1f} s) | "
              f"{'met' if first['HalfMQ'] <= 0.3 else 'missed'} |",
              f"| journal bytes of a transaction | 1,250 | {journal:,.0f} | {'met' if journal <= 1250 else 'missed'} |",
              f"| the engine alone against a bare append log, 64 in flight | 1.5 times | {engine:.2f} | "
              f"{'met' if engine <= 1.5 else 'missed'} |"]
    return lines


def engine(results):
    lines = ["| in flight | transactions/s | times as long as a bare append log of the same groups | "
             "times as long as a bare append log under the same load |", "|---|---|---|---|"]
    for level in sorted(results.engine):
        rate, *ratios = (results.of_engine(level, what) for what in ("transactions_per_second", GROUPS, LOAD))
        lines.append(f"| {level} | {number(rate)} | {' | '.join(number(ratio, 2) for ratio in ratios)} |")
    return lines


def resources(results):
    lines = ["| server | CPU µs per transaction, 64 in flight | bytes to the disk per transaction, 64 in flight | "
             "resident MiB, highest | of it anonymous |", "|---|---|---|---|---|"]
    for name in [SYNC, UNSYNCED, FAST, PROXIED, DOOR]:
        seen = results.memory["HalfMQ" if name == FAST else name]
        resident, anonymous = (statistics.median(both[at] for both in seen) / 2**20 for at in (0, 1))
        lines.append(f"| {name} | {number(results.median(name, 64, 'cpu'))} | "
                     f"{number(results.median(name, 64, 'written'))} | {resident:,.0f} | {anonymous:,.0f} |")
    return lines


def trouble(results):
    lines = []
    for (name, level), rows in sorted(results.rows.items()):
        missing, double, checked = (sum(row[what] for row in rows) for what in ("missing", "double", "checked"))
        if missing or double or checked:
            lines.append(f"- {name}, {level} in flight: {missing} missing, {double} twice, {checked} only after a check")
    return lines or ["Nothing was missing, nothing came twice, and no commit came only by a check."]


def write(results, version, rounds, scale, load, out):
    own = run(BINARY, "--version", stdout=subprocess.PIPE).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    taken = "one round" if rounds == 1 else f"medians of {rounds} rounds, interleaved"
    shortened = "" if scale == 1 else f", shortened to {scale:g} of its length"
    out.write_text("\n".join([
        "# HalfMQ and RocketMQ, side by side", "",
        f"Written by `tests/peers/run` on {time.strftime('%Y-%m-%d')}{shortened}: {taken}.",
        f"{own} at {commit}; Apache RocketMQ {version} with its own Java client. {described()}. "
        f"Load average before the first round: {load:.1f}.", "",
        f"Bodies of {BYTES:,} bytes, client and server on the same machine, everything prepared, committed, received and "
        f"acked, at most {WINDOW:,} committed and not yet acked. Transactions a second, in brackets end to end p50/p99 in ms. "
        "HalfMQ syncs prepare, commit and ack; RocketMQ's SYNC_FLUSH syncs the half message, its commit is one-way.", "",
        *table(results), "", *goals(results), "", *resources(results), "",
        "## The engine alone", "",
        "`halfmq bench --engine-only`: the embedded store without a network, and what a file takes that is appended to "
        "and synced and does nothing else: first the very groups that the engine wrote, one after the other, as if nobody "
        "had to be heard or answered; then the same load, each call answered when it is durable. "
        f"Medians of {results.engine_runs()} runs.", "",
        *engine(results), "",
        "## The RocketMQ 5 client against both", "",
        "One program with rocketmq-client-java (gRPC, half message and commit each a call of its own, a push consumer) "
        f"drives RocketMQ {version} with its proxy in the broker's process (SYNC_FLUSH) and HalfMQ's RocketMQ port. The "
        "client, its JVM's settings, bodies and window are the same for both, and both JVMs are warm.", "",
        *five(results), "", "## Losses and repetitions", "", *trouble(results), ""]))
    print(out.read_text())
    say(f"written to {out}")


def write_readme(results, version):
    """The table between the two marks."""
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition("<!-- written by tests/peers/run -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not begin or not end:
        sys.exit("README.md has lost the marks around its table")
    lines = table(results)
    lines[0] = lines[0].replace("RocketMQ ", f"RocketMQ {version} ")
    readme.write_text(before + begin + "\n".join(lines) + "\n" + end + after)


