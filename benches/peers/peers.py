"""The compared gateways. Each has the same Services in its own lab, and can be paused while others are measured."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import lab
import layouts
from lab import GATEWAY_CPU, GENERATOR_CPU, Failed, run


class Peer:
    """One gateway, in its lab, for one number of Services."""

    name = ""
    note = ""
    translates = True
    carries_tcp = True
    # Whether it is a DNS server, too.
    answers_names = False
    # Whether it uses its whole CPU even when idle.
    spins = False
    forwarding = True
    # The CPU of the receive softirq of the gateway's interfaces. The kernel forwards in it; a poller needs it on another CPU.
    softirq_cpu = GATEWAY_CPU

    @classmethod
    def missing(cls, binary):
        """Why it cannot be measured here; None if it can."""
        return None

    def __init__(self, binary, count, directory):
        self.binary, self.count, self.directory = binary, count, directory
        self.services = lab.services(count)
        self.lab = lab.Lab(self.forwarding, self.softirq_cpu)
        began = time.monotonic()
        try:
            self.lay_out()
        except BaseException:
            self.lab.close()
            raise
        self.load_seconds = time.monotonic() - began

    def lay_out(self):
        """Sets up the Services."""

    def targets(self):
        """The destination of pktgen."""
        return lab.targets(self.count)

    def forget_flows(self):
        """Forgets all flows, as if no packet had arrived."""

    def cpu_seconds(self):
        """CPU time of the gateway so far. The kernel forwards in softirq."""
        return lab.softirq_seconds(GATEWAY_CPU)

    def resume(self):
        """Called before a measurement."""

    def pause(self):
        """Called after a measurement: an idle poller would take the CPU from the others."""

    def change_endpoint(self):
        """Commands, prepared in advance, that replace the last endpoint of the last Service with the spare one."""
        return None

    def _changed(self):
        service = [s for s in self.services if s.protocol == "udp"][-1]
        gone = service.endpoints.pop()
        service.endpoints.append(lab.spare_endpoint(self.count))
        return service, gone

    def file(self, name, text):
        path = os.path.join(self.directory, f"{self.name}-{self.count}-{name}".replace(" ", "-"))
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def close(self):
        self.lab.close()


class Forward(Peer):
    """The kernel's routing alone: the cost without translation."""

    name, note, translates = "ip_forward", "no NAT", False

    def targets(self):
        return f"{lab.FIRST_ENDPOINT}-{lab.FIRST_ENDPOINT + self.count * lab.ENDPOINTS - 1}:{lab.TARGET_PORT}"


class Conntrack(Peer):
    """Common parts of iptables and nftables."""

    def forget_flows(self):
        run(*self.lab.inside(self.lab.gateway, "conntrack", "-F"))


class Iptables(Conntrack):
    """kube-proxy's iptables mode."""

    name, note = "iptables", "as kube-proxy"
    restore = "iptables-legacy-restore"

    @classmethod
    def missing(cls, binary):
        return needs(cls.restore, "conntrack")

    def lay_out(self):
        run(*self.lab.inside(self.lab.gateway, self.restore, self.file("all", layouts.iptables(self.services))))

    def change_endpoint(self):
        changed, gone = self._changed()
        path = self.file("change", layouts.iptables_change(self.services, changed, gone))
        return self.lab.inside(self.lab.gateway, self.restore, "--noflush", path)


class Nftables(Conntrack):
    """kube-proxy's nftables mode."""

    name, note = "nftables", "as kube-proxy"

    @classmethod
    def missing(cls, binary):
        return needs("nft", "conntrack")

    def lay_out(self):
        run(*self.lab.inside(self.lab.gateway, "nft", "-f", self.file("all", layouts.nftables(self.services))))

    def change_endpoint(self):
        changed, gone = self._changed()
        return self.lab.inside(
            self.lab.gateway, "nft", "-f", self.file("change", layouts.nftables_change(changed, gone))
        )


class Poller(Peer):
    """A polling process. It is stopped while others are measured."""

    forwarding = False
    spins = True
    softirq_cpu = GENERATOR_CPU

    def resume(self):
        os.kill(self.pid(), signal.SIGCONT)
        time.sleep(0.2)

    def pause(self):
        os.kill(self.pid(), signal.SIGSTOP)

    def cpu_seconds(self):
        return lab.process_seconds(self.pid())

    def pid(self):
        """`ip netns exec` and `taskset` replace themselves with the program, so this is its process."""
        return self.process.pid


class Testpmd(Poller):
    """DPDK's test application over AF_PACKET: user-space forwarding without translation."""

    name, note, translates, carries_tcp = "dpdk-testpmd", "AF_PACKET, no NAT", False, False

    @classmethod
    def missing(cls, binary):
        return needs("dpdk-testpmd")

    targets = Forward.targets

    def lay_out(self):
        log = os.path.join(self.directory, f"testpmd-{self.count}.log")
        words = ["dpdk-testpmd", "-l", f"{GENERATOR_CPU},{GATEWAY_CPU}", f"--main-lcore={GENERATOR_CPU}"]
        words += ["--no-huge", "-m", "256", "--no-pci", f"--file-prefix=pg{os.getpid()}n{self.count}"]
        words += ["--vdev=net_af_packet0,iface=gc,framecnt=4096", "--vdev=net_af_packet1,iface=gb,framecnt=4096"]
        words += ["--", "--forward-mode=mac", "--nb-cores=1", "--total-num-mbufs=32768", "--auto-start", "--stats-period=3600"]
        words += [f"--eth-peer=0,{self.lab.mac(self.lab.gen, 'c0')}", f"--eth-peer=1,{self.lab.mac(self.lab.gen, 'b0')}"]
        self.process = self.lab.start(self.lab.gateway, *words, log=log)
        started = lambda: "Press enter" in read(log) or "Port statistics" in read(log) or self.process.poll() is not None
        lab.wait_for("dpdk-testpmd's start", 20, started)
        if self.process.poll() is not None:
            raise Failed(f"dpdk-testpmd ended: {read(log).strip().splitlines()[-1:]}")
        time.sleep(0.5)


class Pollgate(Poller):
    """pollgate, with one of its kinds of port."""

    backend, answers_names = "packet", True
    # More of its configuration.
    config = {}

    @classmethod
    def missing(cls, binary):
        """Runs the binary's own check of its configuration."""
        if not os.path.exists(binary):
            return f"{binary} does not exist: cargo build --release"
        probe = f"interfaces: [{{ name: lo, backend: {cls.backend} }}]\naddresses: [192.0.2.1]\n"
        told = subprocess.run(
            [binary, "run", "--config", "/dev/stdin"], input=probe, capture_output=True, text=True, timeout=20, check=False
        ).stderr
        return "this build has no such port" if ".backend" in told else None

    def lay_out(self):
        self.socket = os.path.join(self.directory, f"{self.backend}-{self.count}.sock")
        log = os.path.join(self.directory, f"{self.backend}-{self.count}.log")
        config = {
            "interfaces": [{"name": name, "backend": self.backend} for name in ("gc", "gb")],
            "addresses": ["10.200.1.10", "2001:db8:200::10"],
            "cluster": {"podCIDRs": [lab.PODS]},
            "workers": {"count": 1, "cpus": [GATEWAY_CPU], "idle": "poll"},
            "flows": {"max": 1 << 20},
            "api": {"socket": self.socket, "state": os.path.join(self.directory, f"{self.backend}-{self.count}.db")},
            **self.config,
        }
        path = self.file("gateway.yaml", json.dumps(config))
        self.process = self.lab.start(self.lab.gateway, self.binary, "run", "--config", path, log=log)
        ready = lambda: self.process.poll() is not None or answers(self.socket)
        lab.wait_for("pollgate's start", 20, ready)
        if self.process.poll() is not None:
            raise Failed(f"pollgate ended: {read(log).strip()}")
        self._apply(self.file("all.json", json.dumps(layouts.manifest(self.services))))

    def _apply(self, path):
        run(self.binary, "apply", "-f", path, "--socket", self.socket, timeout=600)

    def change_endpoint(self):
        changed, _ = self._changed()
        path = self.file("change.json", json.dumps(layouts.slice_of(changed)))
        return [self.binary, "apply", "-f", path, "--socket", self.socket]


def pollgate(backend):
    """The class for one port."""
    return type(f"Pollgate{backend}", (Pollgate,), {"name": f"pollgate {backend}", "note": "", "backend": backend})


ALL = [Forward, Testpmd, Iptables, Nftables, pollgate("packet"), pollgate("uring"), pollgate("xdp")]


def needs(*programs):
    """The missing programs, as a sentence; None if all are there."""
    lacking = [program for program in programs if shutil.which(program) is None]
    return f"{', '.join(lacking)} not installed" if lacking else None


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.read())
    except FileNotFoundError:
        return ""


def answers(path):
    """Whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            return True
        except OSError:
            return False
