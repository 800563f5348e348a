"""Cluster DNS beside authoritative servers: NSD, Knot (also over AF_XDP) and unbound, each with the same names in its own lab.

    gen: dnsperf or kxdpgun on CPU 0 ── c0 ─────veth───── gc ── server on CPU 1

One query in four is for a name that does not exist. All caches of the generator's side are off; a server answers from memory.

dnsperf waits for answers before it asks more, so it shows what a client of a server with spare time sees, and is itself the limit
on two shared CPUs. kxdpgun sends at a given rate over AF_XDP whatever comes back, so it shows where a server ends.
"""

import os
import re
import shutil
import subprocess
import time

import lab
import peers
from lab import GATEWAY_CPU, GENERATOR_CPU, Failed, run

NAMES = 5_000
# Queries per second that kxdpgun sends.
OFFERED = [100_000, 200_000, 300_000, 400_000, 600_000, 800_000]
SERVER, CLUSTER_DNS = "10.200.1.1", "10.96.0.10"
ZONE = "cluster.local"


def queries():
    """dnsperf's input: three names that exist, then one that does not."""
    lines = []
    for n in range(NAMES):
        place = "nowhere" if n % 4 == 3 else "default"
        lines.append(f"s{n}.{place}.svc.{ZONE} A")
    return "\n".join(lines) + "\n"


def zone():
    soa = f"@ 5 IN SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ IN NS ns.dns\nns.dns IN A {CLUSTER_DNS}\n"
    records = (f"{s.name}.default.svc IN A {s.address}\n" for s in lab.services(NAMES))
    return f"$ORIGIN {ZONE}.\n$TTL 5\n{soa}{''.join(records)}"


class Server(peers.Peer):
    """A name server on the gateway's own address, behind the kernel's sockets."""

    address = SERVER
    program = ""

    @classmethod
    def missing(cls, binary):
        return peers.needs(cls.program, "dnsperf")

    def __init__(self, binary, count, directory):
        super().__init__(binary, count, directory)
        self.wait()

    def wait(self):
        try:
            self.lab.for_sockets([])
            lab.wait_for(f"{self.name}: a first answer", 60, lambda: self.answered())
        except BaseException:
            self.lab.close()
            raise

    def answered(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended: {peers.read(self.log).strip()[-500:]}")
        with_one = self.file("one", f"s0.default.svc.{ZONE} A\n")
        return "Queries completed:    1 " in self.dnsperf("-d", with_one, "-n", "1", "-t", "1")

    def dnsperf(self, *more):
        words = ["dnsperf", "-s", self.address, "-e", *more]
        return run(*self.lab.inside(self.lab.gen, *words, cpu=GENERATOR_CPU), check=False, timeout=120)

    def serve(self, *words):
        self.log = f"{self.directory}/{self.name}.log".replace(" ", "-")
        self.process = self.lab.start(self.lab.gateway, *words, cpu=GATEWAY_CPU, log=self.log)


class Nsd(Server):
    name, program = "NSD", "nsd"

    def lay_out(self):
        text = f"server:\n server-count: 1\n ip-address: {SERVER}\n database: \"\"\n username: \"\"\n zonesdir: \"\"\n"
        text += f" pidfile: \"\"\n xfrdfile: \"\"\n zonelistfile: \"{self.directory}/nsd.list\"\n rrl-ratelimit: 0\n"
        text += f"remote-control:\n control-enable: no\nzone:\n name: {ZONE}\n zonefile: {self.file('zone', zone())}\n"
        self.serve("nsd", "-d", "-c", self.file("conf", text))


class Knot(Server):
    name, program, listen = "Knot", "knotd", f"listen: {SERVER}@53"
    extra = ""

    def lay_out(self):
        directory = f"{self.directory}/{self.name}".replace(" ", "-")
        os.makedirs(directory)
        text = f"server:\n  rundir: {directory}\n  {self.listen}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n"
        text += f"{self.extra}database:\n  storage: {directory}\n"
        text += f"zone:\n  - domain: {ZONE}\n    file: {self.file('zone', zone())}\n    zonefile-load: whole\n    journal-content: none\n"
        self.serve("knotd", "-c", self.file("conf", text))


class KnotXdp(Knot):
    name, listen, extra = "Knot over AF_XDP", f"listen: {SERVER}@5353", "xdp:\n  listen: gc@53\n"
    softirq_cpu = GENERATOR_CPU


class Unbound(Server):
    name, program = "unbound", "unbound"

    def lay_out(self):
        data = "".join(f" local-data: \"{s.name}.default.svc.{ZONE} 5 A {s.address}\"\n" for s in lab.services(NAMES))
        text = f"server:\n num-threads: 1\n interface: {SERVER}\n access-control: 0.0.0.0/0 allow\n username: \"\"\n chroot: \"\"\n"
        text += " directory: \"\"\n pidfile: \"\"\n use-syslog: no\n do-daemonize: no\n outgoing-range: 64\n"
        text += f" local-zone: \"{ZONE}\" static\n{data}remote-control:\n control-enable: no\n"
        self.serve("unbound", "-d", "-c", self.file("conf", text))


def pollgate(backend):
    """The class for one port: the gateway of the other comparison, asked at the cluster's address."""

    class Pollgate(peers.pollgate(backend)):
        address = CLUSTER_DNS
        # It sleeps when it has nothing to do, as the others: CPU time is that of queries.
        config = {"dns": {"address": CLUSTER_DNS, "responsesPerSecond": 0}, "workers": {"count": 1, "cpus": [GATEWAY_CPU]}}
        wait, answered, dnsperf = Server.wait, Server.answered, Server.dnsperf

        @classmethod
        def missing(cls, binary):
            return peers.needs("dnsperf") or super().missing(binary)

        def lay_out(self):
            # Names are all that is asked for.
            self.services = [lab.Service(s.name, s.address, s.protocol, []) for s in self.services]
            super().lay_out()

        def __init__(self, binary, count, directory):
            super().__init__(binary, count, directory)
            self.log = f"{directory}/{backend}-{count}.log"
            self.wait()

    return Pollgate


ALL = [Nsd, Knot, KnotXdp, Unbound, pollgate("packet"), pollgate("xdp")]


def spent(peer):
    """CPU time so far of the server's processes, and of the softirq of both CPUs: where the kernel receives depends on the server."""
    waiting, seconds = [peer.process.pid], 0
    while waiting:
        pid = waiting.pop()
        seconds += lab.process_seconds(pid)
        waiting += run("pgrep", "-P", pid, check=False).split()
    return seconds + lab.softirq_seconds(GATEWAY_CPU) + lab.softirq_seconds(GENERATOR_CPU)


def load(peer, seconds):
    """dnsperf for so many seconds: queries per second, and the CPU time of the server and the kernel per query."""
    path = peer.file("queries", queries())
    before = spent(peer)
    told = peer.dnsperf("-d", path, "-l", seconds, "-c", "20", "-q", "400", "-T", "1", "-t", "1")
    took = spent(peer) - before
    count = lambda pattern: int(next(iter(re.findall(pattern, told)), "0"))
    done, lost = count(r"Queries completed: +(\d+)"), count(r"Queries lost: +(\d+)")
    codes = dict(re.findall(r"(\w+) (\d+) \(", next(iter(re.findall(r"Response codes: +(.*)", told)), "")))
    checked(peer, codes, done, told)
    rate = next(iter(re.findall(r"Queries per second: +([0-9.]+)", told)))
    return {"qps": float(rate), "cpu_us": took / done * 1e6, "lost": lost / done}


def checked(peer, codes, answers, told):
    """Three names in four exist. Anything else is not an answer."""
    denied = int(codes.get("NXDOMAIN", 0)) / max(1, answers)
    if not 0.2 < denied < 0.3 or set(codes) - {"NOERROR", "NXDOMAIN"}:
        raise Failed(f"{peer.name}: wrong answers: {codes or told[-300:]}")


def offer(peer, rate, seconds):
    """kxdpgun at so many queries per second: answers per second, and the CPU time of the server and the kernel per answer."""
    path = peer.file("queries", queries())
    words = ["kxdpgun", "-t", seconds, "-Q", rate, "-b", "32", "-i", path, "-I", "c0", "-F", GENERATOR_CPU]
    words += ["-R", peer.lab.mac(peer.lab.gateway, "gc"), "-l", lab.CLIENT, peer.address]
    # The queue of the run before may not be free yet.
    for attempt in range(5):
        before = spent(peer)
        told = run(*peer.lab.inside(peer.lab.gen, *words), check=False, timeout=60 + seconds)
        took = spent(peer) - before
        answers = int(next(iter(re.findall(r"total replies: +(\d+)", told)), "0"))
        if answers:
            break
        time.sleep(0.5)
    checked(peer, {code: count for code, count in re.findall(r"responded (\w+): +(\d+)", told)}, answers, told)
    return {"rate": answers / seconds, "cpu_us": took / answers * 1e6}


def overload(peer, seconds):
    """The most answers per second over all that is offered, and the CPU time per answer where every server has time to spare."""
    offered = {rate: offer(peer, rate, seconds) for rate in OFFERED}
    return {"most": max(result["rate"] for result in offered.values()), "calm_cpu_us": offered[OFFERED[0]]["cpu_us"]}


def compare(kinds, options, directory, say):
    """Interleaved rounds; returns the figures of each peer."""
    there, figures = [], {}
    for kind in kinds:
        try:
            there.append(kind(options.binary, NAMES, directory))
            there[-1].pause()
        except (Failed, subprocess.TimeoutExpired) as error:
            say(f"not measured: {kind.name}: {error}")
    try:
        for round in range(options.rounds):
            for peer in there:
                peer.resume()
                try:
                    numbers = load(peer, 1 if options.quick else 5)
                    if shutil.which("kxdpgun"):
                        numbers |= overload(peer, 1)
                finally:
                    peer.pause()
                say(f"round {round + 1}, {peer.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
                figures.setdefault(peer.name, []).append(numbers)
    finally:
        for peer in there:
            peer.close()
    return figures


def markdown(figures):
    """Medians, with the least and the most."""

    def shown(rounds, name, scale, form):
        values = sorted(numbers[name] * scale for numbers in rounds)
        return f"**{form.format(values[len(values) // 2])}** ({form.format(values[0])}–{form.format(values[-1])})"

    columns = [
        ("dnsperf, k queries/s", "qps", 1e-3, "{:.0f}"),
        ("CPU per query, µs", "cpu_us", 1, "{:.1f}"),
        ("kxdpgun, most k answers/s", "most", 1e-3, "{:.0f}"),
        (f"CPU per answer at {OFFERED[0] // 1000} k/s, µs", "calm_cpu_us", 1, "{:.1f}"),
    ]
    columns = [column for column in columns if all(column[1] in numbers for rounds in figures.values() for numbers in rounds)]
    lines = ["| | " + " | ".join(title for title, *_ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, rounds in figures.items():
        lines.append(f"| {name} | " + " | ".join(shown(rounds, *column) for _, *column in columns) + " |")
    return "\n".join(lines)
