"""Hosts that are network namespaces of this machine, joined by a bridge or by a link that delays and drops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

_SUBNET = "10.202.{}"
_LINK = Path(__file__).with_name("link.py")


def missing() -> str | None:
    """Why namespaces cannot be made here, if they cannot."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the command ip (iproute2) is not installed"
    name = f"shoal-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Hosts:
    """Namespaces with an address each; a context manager that removes them, and what runs in them.

    Args:
        count: How many.
        delay: One way, in milliseconds. Only for two hosts.
        loss: Share of the packets that are dropped, in each direction. Only for two hosts.
        megabits: Rate of the link in each direction, if it delays or drops.
        udp: Whether UDP passes. Only for two hosts.
    """

    def __init__(
        self, count: int, delay: float = 0.0, loss: float = 0.0, megabits: int = 400, udp: bool = True
    ) -> None:
        self._prefix = f"shoal-{os.getpid()}"
        subnet = _SUBNET.format(os.getpid() % 250)
        self.names = [f"{self._prefix}-{index}" for index in range(count)]
        self.addresses = [f"{subnet}.{index + 1}" for index in range(count)]
        self._impaired = (delay, loss, megabits, udp) if delay or loss or not udp else None
        self._switch = f"{self._prefix}-switch"
        self._link: subprocess.Popen[bytes] | None = None
        if self._impaired and count != 2:
            raise ValueError("a link has two ends")

    def __enter__(self) -> Hosts:
        for name in self.names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        if self._impaired:
            self._join_by_link(*self._impaired)
        elif len(self.names) == 2:
            self._join_by_pair()
        else:
            self._join_by_bridge()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._link is not None:
            self._link.terminate()
            self._link.wait()
        for name in [*self.names, self._switch]:
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in listed:
                subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def command(self, host: int, *command: str) -> list[str]:
        """The command line that runs something in a host."""
        return ["ip", "netns", "exec", self.names[host], *command]

    def _address(self, host: int, device: str) -> None:
        name = self.names[host]
        run("ip", "-n", name, "address", "add", f"{self.addresses[host]}/24", "dev", device)
        run("ip", "-n", name, "link", "set", device, "up")

    def _join_by_pair(self) -> None:
        one, two = self.names
        run("ip", "link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
        self._address(0, "eth0")
        self._address(1, "eth0")

    def _join_by_bridge(self) -> None:
        run("ip", "netns", "add", self._switch)
        run("ip", "-n", self._switch, "link", "add", "bridge0", "type", "bridge")
        run("ip", "-n", self._switch, "link", "set", "bridge0", "up")
        for host, name in enumerate(self.names):
            port = f"port{host}"
            pair = ["type", "veth", "peer", "name", port, "netns", self._switch]
            run("ip", "link", "add", "eth0", "netns", name, *pair)
            run("ip", "-n", self._switch, "link", "set", port, "master", "bridge0", "up")
            self._address(host, "eth0")

    def _join_by_link(self, delay: float, loss: float, megabits: int, udp: bool) -> None:
        # `tc netem` would do, but not every kernel has it.
        arguments = [*self.names, f"--delay={delay}", f"--loss={loss}", f"--megabits={megabits}"]
        arguments += [] if udp else ["--drop-udp"]
        self._link = subprocess.Popen([sys.executable, str(_LINK), *arguments])
        deadline = time.monotonic() + 10
        for host, name in enumerate(self.names):
            while subprocess.run(["ip", "-n", name, "link", "show", "eth0"], capture_output=True).returncode != 0:
                if time.monotonic() > deadline or self._link.poll() is not None:
                    raise RuntimeError("the link does not come up")
                time.sleep(0.02)
            self._address(host, "eth0")
