"""Network namespaces, and the address of each interface.

    gen  c0 ───────── gc  gateway  gb ───────── b0  gen, for packets
                                                    srv, for sockets: b0 is moved there

    clients    10.128.0.0/16   by 10.200.1.2 on gc
    endpoints  10.129.0.0/15   by 10.200.2.2 on gb
    Services   10.96.1.0 + n, port 80 → 8080

Everything runs in namespaces that `run` has made for itself (mounts, network, processes). The kernel removes all of it when
`run` ends, also after a crash.
"""

import ipaddress
import os
import subprocess
import time

CLIENTS = "10.128.0.0/16"
CLIENT = "10.128.0.1"
PODS = "10.128.0.0/9"
FIRST_ENDPOINT = ipaddress.ip_address("10.129.0.1")
FIRST_SERVICE = ipaddress.ip_address("10.96.1.0")
TCP_SERVICE = "10.96.0.200"
ENDPOINTS = 10
PORT, TARGET_PORT = 80, 8080
GENERATOR_CPU, GATEWAY_CPU = 0, 1


class Failed(Exception):
    """An error that is shown to the user in one line."""


class Service:
    """A Service of one port and its endpoints."""

    def __init__(self, name, address, protocol, endpoints):
        self.name, self.address, self.protocol, self.endpoints = name, address, protocol, endpoints


def services(count):
    """`count` Services over UDP, with one over TCP in the middle."""

    def one(name, address, protocol, number):
        endpoints = [str(FIRST_ENDPOINT + number * ENDPOINTS + at) for at in range(ENDPOINTS)]
        return Service(name, address, protocol, endpoints)

    all = [one(f"s{n}", str(FIRST_SERVICE + n), "udp", n) for n in range(count)]
    all.insert(count // 2, one("tcp", TCP_SERVICE, "tcp", count))
    return all


def targets(count):
    """The UDP Services as pktgen's --to."""
    return f"{FIRST_SERVICE}-{FIRST_SERVICE + count - 1}:{PORT}"


def endpoint_range(count):
    """All endpoints of the UDP Services, one spare at the end, as pktgen's --answer."""
    return f"{FIRST_ENDPOINT}-{spare_endpoint(count)}"


def spare_endpoint(count):
    """An address that no Service has yet."""
    return str(FIRST_ENDPOINT + (count + 1) * ENDPOINTS)


def run(*words, check=True, **options):
    """Runs a command and returns its output. Fails with its error output."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Lab:
    """One gateway with both sides."""

    made = 0

    def __init__(self, forwarding, softirq_cpu):
        Lab.made += 1
        self.gen, self.gateway, self.srv = (f"{role}{Lab.made}" for role in ("gen", "gateway", "srv"))
        self.processes = []
        for namespace in (self.gen, self.gateway, self.srv):
            run("ip", "netns", "add", namespace)
            self.sysctl(namespace, "net.ipv4.conf.all.rp_filter", 0)
            self.sysctl(namespace, "net.ipv4.conf.default.rp_filter", 0)
            self.sysctl(namespace, "net.ipv6.conf.all.disable_ipv6", 1, must=False)
            self.sysctl(namespace, "net.ipv6.conf.default.disable_ipv6", 1, must=False)
            self.ip(namespace, "link set lo up")
        for near, far in (("c0", "gc"), ("b0", "gb")):
            run("ip", "link", "add", near, "netns", self.gen, "type", "veth", "peer", far, "netns", self.gateway)
            self.ip(self.gen, f"link set {near} up")
            self.ip(self.gateway, f"link set {far} up")
        for interface, side in (("gc", 1), ("gb", 2)):
            self.ip(self.gateway, f"addr add 10.200.{side}.1/24 dev {interface}")
        # Permanent entries: between two runs no process answers ARP for these addresses.
        for near, far, side in (("c0", "gc", 1), ("b0", "gb", 2)):
            mac = self.mac(self.gen, near)
            self.ip(self.gateway, f"neigh add 10.200.{side}.2 lladdr {mac} dev {far} nud permanent")
        self.ip(self.gateway, "route add 10.128.0.0/16 via 10.200.1.2")
        self.ip(self.gateway, "route add 10.129.0.0/16 via 10.200.2.2")
        self.ip(self.gateway, "route add 10.130.0.0/15 via 10.200.2.2")
        self.sysctl(self.gateway, "net.ipv4.conf.all.forwarding", int(forwarding))
        self.sysctl(self.gateway, "net.ipv4.conf.default.forwarding", int(forwarding))
        # The generator receives on its own CPU. The gateway receives on the CPU that the peer chooses.
        self.steer(self.gen, ("c0", "b0"), GENERATOR_CPU)
        self.steer(self.gateway, ("gc", "gb"), softirq_cpu)
        self.sysctl(self.gen, "net.ipv4.conf.all.forwarding", 0)
        self.deafen()

    def deafen(self):
        """The generator's interfaces have no addresses. This spares the kernel a route look-up per packet. Packet sockets get
        the packets before that."""
        for interface in ("c0", "b0"):
            hook = f"type filter hook ingress device {interface} priority 0; policy drop;"
            rules = f"table netdev deaf {{\n chain {interface} {{\n {hook}\n }}\n}}\n"
            run("ip", "netns", "exec", self.gen, "nft", "-f", "-", input=rules, check=False)

    def ip(self, namespace, line):
        run("ip", "-n", namespace, *line.split())

    def sysctl(self, namespace, key, value, must=True):
        run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{key}={value}", check=must)

    def steer(self, namespace, interfaces, cpu):
        for interface in interfaces:
            file = f"/sys/class/net/{interface}/queues/rx-0/rps_cpus"
            run("ip", "netns", "exec", namespace, "sh", "-c", f"echo {1 << cpu:x} > {file}")

    def mac(self, namespace, interface):
        return run("ip", "netns", "exec", namespace, "cat", f"/sys/class/net/{interface}/address").strip()

    def inside(self, namespace, *words, cpu=None):
        """A command line in a namespace, on a CPU."""
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        return ["ip", "netns", "exec", namespace, *pinned, *map(str, words)]

    def start(self, namespace, *words, cpu=None, log=None, **options):
        """Starts a process that ends with the lab."""
        output = open(log, "ab") if log else subprocess.DEVNULL
        options.setdefault("stdout", output)
        options.setdefault("stderr", output)
        process = subprocess.Popen(self.inside(namespace, *words, cpu=cpu), **options)
        self.processes.append(process)
        return process

    def for_sockets(self, endpoints):
        """Sets up kernel stacks on both sides. pktgen cannot be used after that."""
        run("ip", "netns", "exec", self.gen, "nft", "flush", "ruleset", check=False)
        run("ip", "-n", self.gen, "link", "set", "b0", "netns", self.srv)
        self.ip(self.srv, "link set b0 up")
        self.steer(self.srv, ("b0",), GENERATOR_CPU)
        self.ip(self.srv, "addr add 10.200.2.2/24 dev b0")
        for endpoint in endpoints:
            self.ip(self.srv, f"addr add {endpoint}/32 dev lo")
        self.ip(self.srv, "route add default via 10.200.2.1")
        self.ip(self.gen, "addr add 10.200.1.2/24 dev c0")
        self.ip(self.gen, f"addr add {CLIENT}/32 dev lo")
        self.ip(self.gen, f"route add default via 10.200.1.1 src {CLIENT}")
        self.sysctl(self.gen, "net.ipv4.ip_local_port_range", "1024 65535")

    def close(self):
        for process in self.processes:
            end(process)
        for namespace in (self.gen, self.gateway, self.srv):
            run("ip", "netns", "del", namespace, check=False)


def end(process):
    """Ends a process, by force if necessary."""
    if process.poll() is not None:
        return
    process.send_signal(18)  # SIGCONT: a stopped process handles no other signal.
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(what, seconds, ready):
    """Waits until `ready()` is true."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def softirq_seconds(cpu):
    """The time that a CPU has spent in hard and soft interrupts so far (proc_stat(5))."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = next(line for line in stat if line.startswith(f"cpu{cpu} ")).split()
    return (int(fields[6]) + int(fields[7])) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid):
    """The CPU time of a process so far, all threads, user and system (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
