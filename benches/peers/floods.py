#!/usr/bin/env python3
"""What real clients notice of a flood: iptables, nftables and pollgate, each under the same floods.

    gen  flood ──┐                                        srv
         clients ┴─ c0 ───────── gc  gateway  gb ───────── b0  echo server

The flood, the clients and the echo server share CPU 0; clients and server have real-time priority there, so that the generator
takes no time from them, but the kernel does: it sends and receives on that CPU. Each figure is therefore compared with one under
`elsewhere`: the same frames, sent to an interface that no gateway receives from.

As a program, it is one of the processes in a lab:

    floods.py flood INTERFACE KIND MAC SECONDS      prints {"pps": n}
    floods.py echo PORT                             serves until it is killed
    floods.py ping ADDRESS:PORT SECONDS             one connection: {"p50_us": n, "p99_us": n, "worst_us": n}
    floods.py join ADDRESS:PORT SECONDS             new connections: {"tried": n, "served": n}
"""

import ctypes
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time

import lab
import measure
from lab import Failed, run

SECONDS = 3
# New connections per second, and how long one may take: two retransmissions of a SYN.
JOIN_RATE, JOIN_TIME = 100, 4.0
# Frames that are made beforehand. Source ports change each time they are sent.
FRAMES = 1 << 16
BATCH = 256
OWNED, OWNED_V6, CLUSTER_DNS = "10.200.1.10", "2001:db8:200::10", "10.96.0.10"
KINDS = ["udp", "syn", "fragments", "dns", "arp", "nd", "junk"]
# Without a flood, and with the generator's work alone.
CALM, ELSEWHERE = "calm", "elsewhere"


# -- the processes ---------------------------------------------------------


def checksum(data):
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def packet(source, to, protocol, payload, number=0, fragment=0):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), number, fragment, 64, protocol, 0, source, to)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def frame(kind, mac, chance):
    """A frame of this kind from a made-up source. Frames of one kind have one length."""
    source = bytes([10, 128, chance.randrange(256), chance.randrange(2, 256)])
    service = socket.inet_aton(str(lab.FIRST_SERVICE))
    port = chance.randrange(1024, 65536)
    own = bytes([2, 0]) + source
    if kind == "arp":
        request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + source + bytes(6) + socket.inet_aton(OWNED)
        return b"\xff" * 6 + own + b"\x08\x06" + request.ljust(46, b"\0")
    if kind == "nd":
        # A solicitation (RFC 4861 §4.3), to the multicast address of the one that it asks for (RFC 4291 §2.7.1).
        asker = socket.inet_pton(socket.AF_INET6, "2001:db8:80::")[:12] + source
        asked = socket.inet_pton(socket.AF_INET6, OWNED_V6)
        group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + asked[13:]
        message = struct.pack("!BBHI", 135, 0, 0, 0) + asked + b"\x01\x01" + own
        pseudo = asker + group + struct.pack("!IHBB", len(message), 0, 0, 58)
        message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
        return b"\x33\x33" + group[12:] + own + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + asker + group + message
    if kind == "junk":
        # Half of it looks like IPv4.
        ether_type = b"\x08\x00" if chance.random() < 0.5 else chance.randbytes(2)
        return mac + own + ether_type + chance.randbytes(46)
    if kind == "syn":
        to = socket.inet_aton(lab.TCP_SERVICE)
        # What is added to the port is taken from the urgent pointer, which says nothing without its flag.
        segment = struct.pack("!HHIIBBHHH", port, lab.PORT, chance.getrandbits(32), 0, 0x50, 2, 65535, 0, 0xFFFF - port)
        pseudo = source + to + struct.pack("!BBH", 0, 6, len(segment))
        segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
        return (mac + own + b"\x08\x00" + packet(source, to, 6, segment)).ljust(60, b"\0")
    if kind == "dns":
        name = b"%012x" % chance.getrandbits(48)
        query = struct.pack("!HHHHHH", chance.getrandbits(16), 0x0100, 1, 0, 0, 0)
        query += bytes([len(name)]) + name + b"\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01"
        datagram = struct.pack("!HHHH", port, 53, 8 + len(query), 0) + query
        return mac + own + b"\x08\x00" + packet(source, socket.inet_aton(CLUSTER_DNS), 17, datagram)
    # "fragments" are first ones, whose others never come.
    datagram = struct.pack("!HHHH", port, lab.PORT, 8 + 24, 0) + bytes(24)
    return mac + own + b"\x08\x00" + packet(
        source, service, 17, datagram, chance.getrandbits(16), 0x2000 if kind == "fragments" else 0
    )


class Message(ctypes.Structure):
    """`struct mmsghdr` of sendmmsg(2)."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("name", "name_length", "parts", "part_count", "control", "control_length")]
    _fields_ += [("flags", ctypes.c_int), ("length", ctypes.c_uint), ("padding", ctypes.c_uint64)]


def flood(interface, kind, mac, seconds):
    chance = random.Random(1)
    frames = [frame(kind, bytes.fromhex(mac.replace(":", "")), chance) for _ in range(FRAMES)]
    size = len(frames[0])
    memory = (ctypes.c_char * (size * FRAMES)).from_buffer(bytearray(b"".join(frames)))
    parts = (ctypes.c_void_p * (2 * FRAMES))()
    # The last field is `msg_len`, which the kernel writes; with its padding it takes eight bytes.
    assert ctypes.sizeof(Message) == 64
    messages = (Message * FRAMES)()
    for at in range(FRAMES):
        parts[2 * at], parts[2 * at + 1] = ctypes.addressof(memory) + at * size, size
        messages[at].parts, messages[at].part_count = ctypes.addressof(parts) + at * 16, 1
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind((interface, 0))
    # PACKET_QDISC_BYPASS
    sender.setsockopt(263, 20, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    sent, begun, at, step = 0, time.monotonic(), 0, ctypes.sizeof(Message)
    while time.monotonic() < begun + seconds:
        done = libc.sendmmsg(sender.fileno(), ctypes.byref(messages, at * step), min(BATCH, FRAMES - at), 0)
        # What the other end has no room for is lost there.
        sent += max(0, done)
        at += max(1, done)
        if at >= FRAMES:
            at = 0
            renew(kind, memory, size)
    print(json.dumps({"pps": sent / (time.monotonic() - begun)}))


def renew(kind, memory, size):
    """Other source ports, so that the frames are new again. UDP has no checksum here; TCP's stays right."""
    if kind in ("arp", "nd", "junk"):
        return
    add = random.randrange(1, 256)
    later = bytes((value + add) & 0xFF for value in range(256))
    view = memoryview(memory).cast("B")
    low = bytes(view[35::size])
    view[35::size] = low.translate(later)
    if kind == "syn":
        # The low byte of the port and that of the urgent pointer stay each other's complement.
        view[53::size] = bytes(255 - value for value in view[35::size])


def echo(port):
    """Sends back what it gets."""
    listener = socket.create_server(("", port), backlog=1024)
    listener.setblocking(False)
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            try:
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.setblocking(False)
                    ready.register(client, selectors.EVENT_READ)
                    continue
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.send(data)
                    continue
            except OSError:
                if key.fileobj is listener:
                    continue
            ready.unregister(key.fileobj)
            key.fileobj.close()


def ping(to, seconds):
    """A byte there and back, once a millisecond or as soon as the last one is back."""
    address, port = to.rsplit(":", 1)
    client = socket.create_connection((address, int(port)), timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("connected", flush=True)
    sys.stdin.readline()
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        client.send(b"x")
        client.recv(1)
        took = time.monotonic() - begun
        times.append(took)
        time.sleep(max(0, 0.001 - took))
    times.sort()
    # A round that takes long stands for all that would have begun in its time.
    slow = [took for took in times for _ in range(max(1, int(took * 1000)))]
    slow.sort()
    at = lambda share: slow[min(len(slow) - 1, int(len(slow) * share))] * 1e6
    print(json.dumps({"p50_us": at(0.5), "p99_us": at(0.99), "worst_us": times[-1] * 1e6}))


def join(to, seconds):
    """New connections, each used once."""
    address, port = to.rsplit(":", 1)
    ready, waiting, tried, served = selectors.DefaultSelector(), {}, 0, 0
    begun = time.monotonic()
    while waiting or time.monotonic() < begun + seconds:
        now = time.monotonic()
        while tried < (min(now, begun + seconds) - begun) * JOIN_RATE:
            tried += 1
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((address, int(port)))
            ready.register(client, selectors.EVENT_WRITE)
            waiting[client] = now + JOIN_TIME
        for key, event in ready.select(0.005):
            client = key.fileobj
            try:
                if event & selectors.EVENT_WRITE:
                    client.send(b"x" * 64)
                    ready.modify(client, selectors.EVENT_READ)
                    continue
                served += bool(client.recv(64))
            except OSError:
                pass
            ready.unregister(client)
            client.close()
            del waiting[client]
        for client in [client for client, until in waiting.items() if until < time.monotonic()]:
            ready.unregister(client)
            client.close()
            del waiting[client]
    print(json.dumps({"tried": tried, "served": served}))


# -- the comparison --------------------------------------------------------


def resident(peer):
    """Memory of the process, KiB; the kernel's own is not asked for."""
    try:
        with open(f"/proc/{peer.pid()}/status", encoding="ascii") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    except AttributeError:
        return 0


def urgent(peer, namespace, *words):
    return peer.lab.inside(namespace, "chrt", "-f", "20", sys.executable, os.path.realpath(__file__), *words, cpu=lab.GENERATOR_CPU)


def under(peer, kind, seconds):
    """What the clients of `peer` see while this kind of frames comes."""
    service = f"{lab.TCP_SERVICE}:{lab.PORT}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(urgent(peer, peer.lab.gen, "ping", service, seconds), **pipes) as client:
        if client.stdout.readline() != "connected\n":
            raise Failed(f"{peer.name}: no connection before the flood")
        attack = None
        if kind != CALM:
            interface, frames = ("d0", "udp") if kind == ELSEWHERE else ("c0", kind)
            words = [sys.executable, os.path.realpath(__file__), "flood", interface, frames,
                     peer.lab.mac(peer.lab.gateway, "gc"), seconds + 3]
            attack = subprocess.Popen(peer.lab.inside(peer.lab.gen, *words, cpu=lab.GENERATOR_CPU), **pipes)
            # Until it sends: making the frames takes a second or two.
            sending = lambda: sent(peer, interface) > before + 10_000
            before = sent(peer, interface)
            lab.wait_for(f"{kind}: a flood", 30, sending)
        newcomers = subprocess.Popen(urgent(peer, peer.lab.gen, "join", service, seconds - 1), **pipes)
        client.stdin.write("\n")
        client.stdin.flush()
        seen = json.loads(client.stdout.read())
        result = {**seen, **json.loads(newcomers.communicate(timeout=60)[0])}
        if attack:
            result |= json.loads(attack.communicate(timeout=60)[0])
        return result


def sent(peer, interface):
    path = f"/sys/class/net/{interface}/statistics/tx_packets"
    return int(run("ip", "netns", "exec", peer.lab.gen, "cat", path))


def floods(peer, quick):
    """All floods of one peer, one after the other; each with what is left a second later."""
    seconds = 2 if quick else SECONDS
    results = {}
    for kind in [CALM, ELSEWHERE, *KINDS]:
        if kind == "dns" and not peer.answers_names:
            continue
        memory = resident(peer)
        results[kind] = under(peer, kind, seconds) | {"grown_kib": resident(peer) - memory}
        if kind not in (CALM, ELSEWHERE):
            time.sleep(1)
            results[kind]["after_p99_us"] = under(peer, CALM, 1)["p99_us"]
    return results


def compare(kinds, options, directory, say):
    """Interleaved rounds; returns the figures of each peer."""
    there, figures = [], {}
    try:
        for kind in kinds:
            if not kind.carries_tcp or not kind.translates:
                continue
            peer = kind(options.binary, 10, directory)
            peer.resume()
            measure.verify(peer)
            peer.lab.for_sockets(next(s for s in peer.services if s.protocol == "tcp").endpoints)
            run("ip", "-n", peer.lab.gen, "link", "add", "d0", "type", "veth", "peer", "d1")
            peer.lab.ip(peer.lab.gen, "link set d0 up")
            peer.lab.ip(peer.lab.gen, "link set d1 up")
            peer.lab.start(peer.lab.srv, "chrt", "-f", "20", sys.executable, os.path.realpath(__file__), "echo", lab.TARGET_PORT,
                           cpu=lab.GENERATOR_CPU)
            # What the kernel answers solicitations for; pollgate has an address of its own.
            peer.lab.sysctl(peer.lab.gateway, "net.ipv6.conf.gc.disable_ipv6", 0)
            if not peer.answers_names:
                peer.lab.ip(peer.lab.gateway, f"addr add {OWNED_V6}/64 dev gc nodad")
            peer.pause()
            there.append(peer)
        for round in range(options.rounds):
            for peer in there:
                peer.resume()
                try:
                    results = floods(peer, options.quick)
                finally:
                    peer.pause()
                for kind, numbers in results.items():
                    told = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
                    say(f"round {round + 1}, {peer.name}, {kind}: {told}")
                    figures.setdefault(peer.name, {}).setdefault(kind, []).append(numbers)
    finally:
        for peer in there:
            peer.close()
    return figures


def markdown(figures):
    """Medians: p99 as a multiple of that under `elsewhere`, new clients served, and what is left a second later."""

    def median(rounds, name):
        values = sorted(numbers[name] for numbers in rounds)
        return values[len(values) // 2]

    lines = ["| | flood | k frames/s | p50, µs | p99, µs | × elsewhere | new clients served | p99 a second later, µs | memory, KiB |"]
    lines.append("|---" * 9 + "|")
    for name, kinds in figures.items():
        base = median(kinds[ELSEWHERE], "p99_us")
        for kind, rounds in kinds.items():
            served = sum(numbers["served"] for numbers in rounds) / sum(numbers["tried"] for numbers in rounds)
            optional = lambda name, scale: f"{median(rounds, name) * scale:.0f}" if name in rounds[0] else ""
            lines.append(
                f"| {name} | {kind} | {optional('pps', 1e-3)} | {median(rounds, 'p50_us'):.0f} | **{median(rounds, 'p99_us'):.0f}** | "
                f"{median(rounds, 'p99_us') / base:.1f} | {served:.1%} | {optional('after_p99_us', 1)} | {median(rounds, 'grown_kib'):+d} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["flood", interface, kind, mac, seconds]:
            flood(interface, kind, mac, float(seconds))
        case ["echo", port]:
            echo(int(port))
        case ["ping", to, seconds]:
            ping(to, float(seconds))
        case ["join", to, seconds]:
            join(to, float(seconds))
        case _:
            sys.exit(__doc__)
