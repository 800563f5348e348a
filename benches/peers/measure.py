"""The measurements. Each function measures one peer once and returns numbers by name."""

import json
import signal
import subprocess
import time

import lab
from lab import GATEWAY_CPU, GENERATOR_CPU, Failed

# How pktgen accesses its interfaces; see `pollgate pktgen --help`.
GENERATOR = "packet"
QUICK = False

# conntrack holds 262144 entries by default, and a namespace cannot raise that. Runs with new flows end before.
NEW_FLOW_WARMUP, NEW_FLOW_SECONDS = 0.1, 0.7
ESTABLISHED_FLOWS, QUICK_FLOWS = 10_000, 2_000
# New flows per second while an endpoint changes: the new one gets its first packet within about a millisecond. conntrack
# has room for ten seconds of them.
CHANGE_RATE = "20k"


class Times:
    """Durations of the runs."""

    def __init__(self, quick):
        self.warmup = 0.2 if quick else 0.4
        self.established = 0.5 if quick else 2.0
        self.latency = 0.4 if quick else 2.0
        self.new_flows = 0.3 if quick else NEW_FLOW_SECONDS
        self.bulk = 1 if quick else 4
        self.connections = 0.3 if quick else 3.0
        self.after_change = 0.2 if quick else 1.0


def pktgen_words(peer, *more):
    gateway = peer.lab.mac(peer.lab.gateway, "gc")
    words = [peer.binary, "pktgen", "-i", "c0", "--sink", "b0", "--gateway-mac", gateway, "--from", lab.CLIENTS]
    words += ["--next-hop", "10.200.1.2,10.200.2.2", "--answer", lab.endpoint_range(peer.count)]
    words += ["--backend", GENERATOR, "-o", "json", *more]
    return peer.lab.inside(peer.lab.gen, *words, cpu=GENERATOR_CPU)


def pktgen(peer, *more):
    """A run of the load generator."""
    done = subprocess.run(pktgen_words(peer, *more), capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise Failed(f"{peer.name}, {peer.count} Services: pktgen: {done.stderr.strip()}")
    return json.loads(done.stdout)


def verify(peer, tries=3):
    """Checks before a measurement that packets go where they should: at a low rate none is lost, every packet arrives at an
    endpoint, and each endpoint gets its share. A busy machine sometimes loses packets, so the check may be repeated."""
    try:
        return verify_once(peer)
    except Failed:
        if tries == 1:
            raise
        return verify(peer, tries - 1)


def verify_once(peer):
    report = pktgen(
        peer, "--to", peer.targets(), "--flows", flows(peer), "--rate", "10k", "--warmup", "0.3", "--duration",
        int(flows(peer)) / 10_000,
    )
    lost, sent = report["lost"]["packets"], report["sent"]["packets"]
    if lost > sent // 1000:
        raise Failed(f"{peer.name}, {peer.count} Services: {lost} of {sent} packets lost at 10 k/s")
    shares = {"used": report["endpoints"]["used"], "of": peer.count * lab.ENDPOINTS}
    return {**shares, **verify_shares(peer)} if peer.translates else shares


def verify_shares(peer):
    """Checks that one Service's packets go to all of its endpoints and no others, each with its share."""
    service = [s for s in peer.services if s.protocol == "udp"][-1]
    report = pktgen(peer, "--to", f"{service.address}:{lab.PORT}", "--flows", "5000", *fresh(), "--rate", "10k",
                    "--warmup", "0.1", "--duration", "0.5")
    seen = {address: one["packets"] for address, one in report["endpoints"]["listed"].items()}
    if set(seen) != set(service.endpoints) or sum(seen.values()) != report["received"]["packets"]:
        raise Failed(f"{peer.name}, {peer.count} Services: packets to {service.address} arrived at {', '.join(seen)}")
    fair = sum(seen.values()) / len(seen)
    if min(seen.values()) < fair * 0.7 or max(seen.values()) > fair * 1.3:
        raise Failed(f"{peer.name}, {peer.count} Services: endpoints of {service.address} got {sorted(seen.values())}")
    return {"least": min(seen.values()) / fair, "most": max(seen.values()) / fair}


_run = 0


def fresh():
    """Flows that no earlier run used, so that the gateway does not know them."""
    global _run
    _run = _run % 2_000 + 1
    return ["--first-flow", str(_run * 2_000_000)]


def flows(peer):
    return str(max(QUICK_FLOWS if QUICK else ESTABLISHED_FLOWS, peer.count))


def established(peer, times):
    """All flows are known to the gateway: the maximum packet rate, and the CPU time per packet."""
    peer.forget_flows()
    # A run at a low rate opens the flows.
    pktgen(peer, "--to", peer.targets(), "--flows", flows(peer), "--rate", "50k", "--warmup", int(flows(peer)) / 50_000,
           "--duration", "0.1")
    process = subprocess.Popen(
        pktgen_words(peer, "--to", peer.targets(), "--flows", flows(peer), "--rate", "max", "--warmup",
                     times.warmup, "--duration", times.established),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    # Only the middle of the run counts, not its start and its end.
    time.sleep(times.warmup + times.established * 0.2)
    before, begun = spent(peer), time.monotonic()
    time.sleep(times.established * 0.5)
    after, seconds = spent(peer), time.monotonic() - begun
    out, error = process.communicate(timeout=60)
    if process.returncode != 0:
        raise Failed(f"{peer.name}: pktgen: {error.strip()}")
    report = json.loads(out)
    rate = report["rate"]["received"]
    gateway, generator = ((late - early) / seconds for late, early in zip(after, before))
    return {
        "established_pps": rate,
        "established_offered": report["rate"]["sent"],
        "established_refused": refused(report),
        "cpu_us": (gateway + generator) / rate * 1e6,
        "gateway_cpu_us": gateway / rate * 1e6,
        "gateway_busy": gateway,
        "spins": int(peer.spins),
    }


def refused(report):
    """Packets that did not fit the sending socket's buffer, per packet that did. Packets wait there until the gateway's CPU
    takes them, so a generator that is faster than the gateway is slowed down and loses nothing."""
    return sum(report["not_sent"].values()) / max(1, report["sent"]["packets"])


def spent(peer):
    """CPU time of the gateway, and of the softirq on the generator's CPU."""
    return peer.cpu_seconds(), lab.softirq_seconds(GENERATOR_CPU)


def new_flows(peer, times):
    """Every packet opens a new flow."""
    peer.forget_flows()
    report = pktgen(peer, "--to", peer.targets(), "--flows", flows(peer), "--every-packet-new", *fresh(), "--rate", "max",
                    "--warmup", NEW_FLOW_WARMUP, "--duration", times.new_flows)
    peer.forget_flows()
    return {
        "new_flow_pps": report["rate"]["received"],
        "new_flow_offered": report["rate"]["sent"],
        "new_flow_refused": refused(report),
    }


def latency(peer, times):
    """One-way latency at a low rate, with CPUs that do not sleep."""
    peer.forget_flows()
    spinner = peer.lab.start(peer.lab.gen, "chrt", "--idle", "0", "sh", "-c", "while :; do :; done", cpu=GATEWAY_CPU)
    try:
        report = pktgen(peer, "--to", peer.targets(), "--flows", "1000", "--new-flows", "2k", *fresh(), "--rate", "20k",
                        "--warmup", "0.3", "--duration", times.latency)
    finally:
        lab.end(spinner)
    told = report["latency_us"]
    return {
        "first_p50_us": told["first"]["p50"], "first_p99_us": told["first"]["p99"],
        "steady_p50_us": told["steady"]["p50"], "steady_p99_us": told["steady"]["p99"],
    }


def change(peer, times):
    """From the command that replaces one endpoint to the first packet that arrives at the new one."""
    words = peer.change_endpoint()
    if words is None:
        return {}
    peer.forget_flows()
    last = lab.FIRST_SERVICE + peer.count - 1
    process = subprocess.Popen(
        pktgen_words(peer, "--to", f"{last}:{lab.PORT}", "--every-packet-new", *fresh(), "--rate", CHANGE_RATE,
                     "--warmup", "0.2", "--duration", "60"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    time.sleep(0.6)
    begun = time.time_ns()
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    # The change is in effect at the latest when the command has returned. The run ends a few packets later.
    time.sleep(times.after_change)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    if done.returncode != 0:
        raise Failed(f"{peer.name}: changing an endpoint: {done.stderr.strip()}")
    if process.returncode != 0:
        raise Failed(f"{peer.name}: pktgen: {error.strip()}")
    report = json.loads(out)
    spare = report["endpoints"]["listed"].get(lab.spare_endpoint(peer.count))
    if spare is None:
        raise Failed(f"{peer.name}, {peer.count} Services: no packet came to the new endpoint")
    return {"change_ms": (int(report["began_unix_ns"]) + spare["first_ns"] - begun) / 1e6}


def tcp(peer, times, connections):
    """Real sockets with offloads: bulk transfer, and connections that are opened, used once and closed."""
    service = next(s for s in peer.services if s.protocol == "tcp")
    target, port = (service.address, lab.PORT) if peer.translates else (service.endpoints[0], lab.TARGET_PORT)
    server = peer.lab.start(peer.lab.srv, connections, "serve", lab.TARGET_PORT, cpu=GENERATOR_CPU)
    try:
        load = lambda seconds: lab.run(
            *peer.lab.inside(peer.lab.gen, connections, "load", f"{target}:{port}", seconds, cpu=GENERATOR_CPU), timeout=60
        )
        lab.wait_for(f"{peer.name}: a first TCP connection", 10, lambda: try_connection(peer, connections, target, port))
        rate = json.loads(load(times.connections))["connections_per_second"]
    finally:
        lab.end(server)
    return {"connections_per_second": rate, "gbps": bulk(peer, times, target, port)}


def try_connection(peer, connections, target, port):
    words = peer.lab.inside(peer.lab.gen, connections, "load", f"{target}:{port}", "0.01", cpu=GENERATOR_CPU)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    return done.returncode == 0


def bulk(peer, times, target, port):
    server = peer.lab.start(peer.lab.srv, "iperf3", "-s", "-p", lab.TARGET_PORT, cpu=GENERATOR_CPU)
    try:
        time.sleep(0.3)
        words = peer.lab.inside(
            peer.lab.gen, "iperf3", "-c", target, "-p", port, "-t", times.bulk, "-O", "0" if times.bulk < 2 else "1", "-J",
            cpu=GENERATOR_CPU,
        )
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        report = json.loads(done.stdout or "{}")
        if "error" in report or "end" not in report:
            raise Failed(f"{peer.name}: iperf3: {report.get('error', done.stderr)}")
        return report["end"]["sum_received"]["bits_per_second"] / 1e9
    finally:
        lab.end(server)
