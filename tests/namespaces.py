"""Machines for tests: network namespaces of their own, each on a link that is slow, late and loses packets.

The links are the kernel's ``tc netem`` where it has that, else a process's own: packets between TUN devices, held back
and dropped in user space by the same figures.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

RATE_BITS_PER_S = 20e6
DELAY_S = 0.025
LOSS = 0.01
NETEM = "rate 20mbit delay 25ms loss 1%"
"""Every machine's link, each way: through both their links, two machines are 100 ms apart there and back."""
_QUEUE_S = 0.5  # what a router holds at most before it drops
Waiting = list[tuple[float, int, int, bytes]]
"""When a packet is due, its number, the descriptor it goes to, the packet."""
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def permitted() -> str:
    """Why such machines cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc (iproute2) are not installed"
    try:
        with network(["probe"]):
            return ""
    except (subprocess.CalledProcessError, OSError) as error:
        return f"no network namespaces here: {error}"


@dataclass(frozen=True)
class Network:
    """Machines by name. ``links`` says what shapes them."""

    prefix: str
    addresses: dict[str, str]
    links: str

    def on(self, machine: str) -> list[str]:
        """What a command begins with to run on a machine."""
        return ["ip", "netns", "exec", f"{self.prefix}-{machine}"]

    def run(self, machine: str, *command: str) -> str:
        """Run a command there to its end and return what it printed."""
        done = subprocess.run([*self.on(machine), *command], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout


@contextmanager
def network(machines: list[str]) -> Iterator[Network]:
    """Machines that reach one another alone."""
    prefix = f"dsv{os.getpid()}"
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(machines, 1)}
    with ExitStack() as stack:
        for name in (f"{prefix}-{name}" for name in machines):
            _do("ip netns add", name)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True, check=False)
            _do("ip -n", name, "link set lo up")
        join = _join_by_netem if _has_netem(f"{prefix}-{machines[0]}") else _join_by_tun
        yield Network(prefix, addresses, join(stack, prefix, addresses))


def _has_netem(namespace: str) -> bool:
    with suppress(subprocess.CalledProcessError):
        _do("tc -n", namespace, "qdisc add dev lo root netem delay 1ms")
        _do("tc -n", namespace, "qdisc delete dev lo root")
        return True
    return False


def _join_by_netem(stack: ExitStack, prefix: str, addresses: dict[str, str]) -> str:
    switch = f"{prefix}-switch"
    _do("ip netns add", switch)
    stack.callback(subprocess.run, ["ip", "netns", "delete", switch], capture_output=True, check=False)
    _do("ip -n", switch, "link add bridge0 type bridge")
    _do("ip -n", switch, "link set bridge0 up")
    for number, (name, address) in enumerate(addresses.items(), 1):
        there = f"{prefix}-{name}"
        _do("ip -n", switch, f"link add port{number} type veth peer name eth0 netns", there)
        _do("ip -n", switch, f"link set port{number} master bridge0 up")
        _do("ip -n", there, f"address add {address}/24 dev eth0")
        _do("ip -n", there, "link set eth0 up")
        _do("tc -n", there, f"qdisc add dev eth0 root netem {NETEM}")
        _do("tc -n", switch, f"qdisc add dev port{number} root netem {NETEM}")
    return "tc netem"


def _join_by_tun(stack: ExitStack, prefix: str, addresses: dict[str, str]) -> str:
    router = _Router(seed=0)
    for number, (name, address) in enumerate(addresses.items(), 1):
        there, device = f"{prefix}-{name}", f"{prefix}t{number}"[-15:]
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
        _do("ip link set", device, "netns", there)
        _do("ip -n", there, f"address add {address}/24 dev {device}")
        _do("ip -n", there, f"link set {device} up")
        router.links[bytes(int(part) for part in address.split("."))] = _Link(descriptor)
    thread = threading.Thread(target=router.forward, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(router.stop.set)
    return "TUN devices and a router in user space"


@dataclass
class _Link:
    """One machine's link: when each direction has sent what it was given."""

    descriptor: int
    up_free_s: float = 0.0
    down_free_s: float = 0.0


@dataclass
class _Router:
    seed: int
    links: dict[bytes, _Link] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def forward(self) -> None:
        """Carry packets until stopped."""
        chance = random.Random(self.seed)
        waiting: Waiting = []
        with selectors.DefaultSelector() as selector:
            for link in self.links.values():
                selector.register(link.descriptor, selectors.EVENT_READ, link)
            count = 0
            while not self.stop.is_set():
                pause_s = min(0.1, max(0.0, waiting[0][0] - time.monotonic())) if waiting else 0.1
                for key, _ in selector.select(pause_s):
                    with suppress(OSError):
                        packet = os.read(key.fd, 65535)
                        count += 1
                        self._accept(key.data, packet, count, chance, waiting)
                while waiting and waiting[0][0] <= time.monotonic():
                    _, _, descriptor, packet = heapq.heappop(waiting)
                    with suppress(OSError):
                        os.write(descriptor, packet)

    def _accept(
        self,
        source: _Link,
        packet: bytes,
        count: int,
        chance: random.Random,
        waiting: list[tuple[float, int, int, bytes]],
    ) -> None:
        target = self.links.get(packet[16:20]) if packet[0] >> 4 == 4 else None
        if target is None or chance.random() < LOSS or chance.random() < LOSS:
            return
        now, needed_s = time.monotonic(), len(packet) * 8 / RATE_BITS_PER_S
        up_s = max(now, source.up_free_s)
        down_s = max(up_s + needed_s + DELAY_S, target.down_free_s)
        if up_s - now > _QUEUE_S or down_s - up_s > _QUEUE_S:
            return
        source.up_free_s, target.down_free_s = up_s + needed_s, down_s + needed_s
        heapq.heappush(waiting, (down_s + needed_s + DELAY_S, count, target.descriptor, packet))


def _do(*words: str) -> None:
    subprocess.run(" ".join(words).split(), capture_output=True, text=True, check=True)
