"""A network between two namespaces that delays and drops packets: two devices and this program between them.

It stands in for `tc netem`, which not every kernel has. Each direction has a rate, a queue that is as long as what
the rate sends in a hundred milliseconds, a fixed delay, and a share of packets that are dropped at random; UDP may not
pass at all.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import select
import struct
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x0001, 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_PACKET_BYTES = 2048
_QUEUE_SECONDS = 0.1
_PACKETS_AT_ONCE = 64
_UDP = 17


def open_device(end: str, kind: int) -> int:
    """Make a device in a namespace; everything that is routed to it is read from the descriptor."""
    import ctypes

    namespace, _, name = end.partition(":")
    setns = ctypes.CDLL(None, use_errno=True).setns
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{namespace}" if namespace else "/proc/self/ns/net", os.O_RDONLY)
    if setns(there, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", (name or "eth0").encode(), kind | _IFF_NO_PI))
    finally:
        setns(here, _CLONE_NEWNET)
        os.close(here)
        os.close(there)
    return device


def _is_udp(packet: bytes) -> bool:
    version, protocol = packet[0] >> 4, packet[9]
    return version == 4 and protocol == _UDP


class Direction:
    """What goes from one device to the other."""

    def __init__(self, source: int, target: int, delay: float, loss: float, bytes_per_second: float, udp: bool) -> None:
        self.source = source
        self._target = target
        self._delay = delay
        self._loss = loss
        self._rate = bytes_per_second
        self._udp = udp
        self._free_at = 0.0
        self._on_the_way: deque[tuple[float, bytes]] = deque()

    def take(self, now: float) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(self.source, _PACKET_BYTES)
            except BlockingIOError:
                return
            if random.random() < self._loss or (_is_udp(packet) and not self._udp):
                continue
            begin = max(now, self._free_at)
            if begin - now > _QUEUE_SECONDS:
                continue
            self._free_at = begin + len(packet) / self._rate
            self._on_the_way.append((self._free_at + self._delay, packet))

    def give(self, now: float) -> None:
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, packet = self._on_the_way.popleft()
            # The other end is not up yet, or its queue is full: one more that is lost.
            with contextlib.suppress(OSError):
                os.write(self._target, packet)

    def next_due(self) -> float | None:
        return self._on_the_way[0][0] if self._on_the_way else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ends", nargs=2, metavar="NAMESPACE[:DEVICE]", help="[:eth0]; without NAMESPACE, in this one")
    parser.add_argument("--ethernet", action="store_true", help="devices that can be ports of a bridge")
    parser.add_argument("--delay", type=float, required=True, help="one way, in milliseconds")
    parser.add_argument("--loss", type=float, required=True, help="share of packets")
    parser.add_argument("--megabits", type=float, required=True, help="a second, in each direction")
    parser.add_argument("--drop-udp", action="store_true", help="let no datagram of UDP pass")
    given = parser.parse_args()
    if given.ethernet and given.drop_udp:
        parser.error("what is in an Ethernet frame is not looked at: no --drop-udp with --ethernet")
    devices = [open_device(end, _IFF_TAP if given.ethernet else _IFF_TUN) for end in given.ends]
    settings = given.delay / 1000, given.loss, given.megabits * 1e6 / 8, not given.drop_udp
    directions = [Direction(devices[0], devices[1], *settings), Direction(devices[1], devices[0], *settings)]
    poll = select.epoll()
    by_source = {direction.source: direction for direction in directions}
    for device in devices:
        poll.register(device, select.EPOLLIN)
    while True:
        due = [at for direction in directions if (at := direction.next_due()) is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due else -1
        for device, _ in poll.poll(wait if wait > 0.0005 or wait < 0 else 0):
            by_source[device].take(time.monotonic())
        now = time.monotonic()
        for direction in directions:
            direction.give(now)


if __name__ == "__main__":
    main()
