"""Hosts for the nodes of a cluster: network namespaces joined by a bridge, or this machine's loopback.

A host of its own has an address and a cable that can be cut. Where the system does not let us make any,
everything runs on loopback, and links are left alone.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass

from chaos import slow


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """Where a node runs.

    Attributes:
        namespace: The name of its network namespace; None on loopback.
        address: Its IPv4 address.
        cable: The bridge's end of its link.
        link: The same link, which can be made slow; None where that is not possible.
    """

    namespace: str | None
    address: str
    cable: str | None = None
    link: slow.SlowLink | None = None

    def cut(self) -> None:
        """Nothing reaches it or leaves it, and nobody is told."""
        if self.cable is not None:
            _ip("link", "set", self.cable, "down")

    def heal(self) -> None:
        """Undo `cut`."""
        if self.cable is not None:
            _ip("link", "set", self.cable, "up")


class Hosts:
    """Makes hosts, and removes them at the end.

    Attributes:
        name: What the names of all namespaces and links begin with.
        why_loopback: Why there are no namespaces; empty if there are.
        why_not_slow: Why no link can be made slow and lossy; empty if that is possible.
    """

    _made = itertools.count()

    def __init__(self, loopback: bool = False) -> None:
        # The system removes a namespace and what is in it some time after it was told to: no name is used twice.
        self.name = f"s{os.getpid() & 0xFFFF:x}x{next(Hosts._made) & 0xFF:x}"
        self._bridge: str | None = None
        self._namespaces: list[str] = []
        self.why_loopback = "asked for" if loopback else self._make_bridge()
        self.why_not_slow = "there are none" if self._bridge is None else slow.why_not(self._bridge)

    def _make_bridge(self) -> str:
        if shutil.which("ip") is None:
            return "there is no `ip` command"
        try:
            _ip("link", "add", self.name, "type", "bridge")
            self._bridge = self.name
            _ip("link", "set", self.name, "up")
        except subprocess.CalledProcessError as error:
            self.close()
            return f"`ip` says: {error.stderr.strip()}"
        return ""

    def add(self) -> Host:
        """A new host."""
        if self._bridge is None:
            return Host(None, "127.0.0.1")
        number = len(self._namespaces) + 1
        namespace, cable = f"{self.name}n{number}", f"{self.name}v{number}"
        address = f"10.213.{number // 250}.{number % 250 + 1}"
        _ip("netns", "add", namespace)
        self._namespaces.append(namespace)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", cable, "master", self._bridge, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "addr", "add", f"{address}/16", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        link = None if self.why_not_slow else slow.SlowLink(namespace, cable, self._bridge, f"{address}/16")
        return Host(namespace, address, cable, link)

    def close(self) -> None:
        """Remove everything."""
        for number, namespace in enumerate(self._namespaces, 1):
            # With the namespace it would go only when the system has given up the last connection in there.
            _ip("link", "del", f"{self.name}v{number}", check=False)
            _ip("netns", "del", namespace, check=False)
        self._namespaces.clear()
        if self._bridge is not None:
            _ip("link", "del", self._bridge, check=False)
            self._bridge = None
