"""Links that delay and drop: with the kernel's `netem`, or where it has none with a program that passes packets on."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

RELAY = pathlib.Path(__file__).parents[1] / "benches/network/link.py"
RELAY_MEGABITS = 400
RELAY_SECONDS = 10.0


class SlowLink:
    """A host's way into the network, which can be made slow and lossy for a while.

    Args:
        namespace: The host's network namespace, where the device is called eth0.
        cable: The other end of that device, in this namespace.
        bridge: What the cable is plugged in.
        address: The host's, with the length of the network's prefix, which all addresses of the bridge share.
    """

    def __init__(self, namespace: str, cable: str, bridge: str, address: str) -> None:
        self._namespace = namespace
        self._cable = cable
        self._bridge = bridge
        self._address = address

    @contextlib.contextmanager
    def slow(self, milliseconds: float, loss: float) -> Iterator[None]:
        """Delay all packets by so much each way, and drop this share of them at random."""
        way = self._netem if has_netem(self._bridge) else self._relay
        with way(milliseconds, loss):
            yield

    @contextlib.contextmanager
    def _netem(self, milliseconds: float, loss: float) -> Iterator[None]:
        settings = ("netem", "delay", f"{milliseconds:.1f}ms", "loss", f"{100 * loss:.2f}%")
        ends = [("tc", "qdisc"), ("ip", "netns", "exec", self._namespace, "tc", "qdisc")]
        devices = [self._cable, "eth0"]
        with contextlib.ExitStack() as stack:
            for end, device in zip(ends, devices, strict=True):
                _run(*end, "add", "dev", device, "root", *settings)
                stack.callback(_run, *end, "del", "dev", device, "root")
            yield

    @contextlib.contextmanager
    def _relay(self, milliseconds: float, loss: float) -> Iterator[None]:
        """A second device in the host with the first one's name on the wire takes its place."""
        other = f"{self._cable}s"
        command = [sys.executable, str(RELAY), "--ethernet", f"{self._namespace}:eth1", f":{other}"]
        settings = (f"--delay={milliseconds}", f"--loss={loss}", f"--megabits={RELAY_MEGABITS}")
        # Ctrl-C is for this program, which then ends the other one.
        relay = subprocess.Popen([*command, *settings], start_new_session=True)
        try:
            deadline = time.monotonic() + RELAY_SECONDS
            while not (_has_device(self._namespace, "eth1") and os.path.exists(f"/sys/class/net/{other}")):
                if relay.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the program that passes packets on does not start")
                time.sleep(0.01)
            _run("ip", "link", "set", other, "master", self._bridge, "up")
            _run("ip", "-n", self._namespace, "link", "set", "eth1", "address", self._hardware_address(), "up")
            _run("ip", "link", "set", self._cable, "down")
            self._go_through("eth1")
            yield
        finally:
            _run("ip", "link", "set", self._cable, "up")
            self._go_through("eth0")
            # Its devices go with it.
            relay.terminate()
            relay.wait()

    def _go_through(self, device: str) -> None:
        address, _, length = self._address.partition("/")
        octets = int(length) // 8
        network = ".".join(address.split(".")[:octets] + ["0"] * (4 - octets))
        route = (f"{network}/{length}", "dev", device, "src", address)
        _run("ip", "-n", self._namespace, "route", "replace", *route)

    def _hardware_address(self) -> str:
        shown = subprocess.run(
            ["ip", "-json", "-n", self._namespace, "link", "show", "eth0"], check=True, capture_output=True
        )
        return str(json.loads(shown.stdout)[0]["address"])


def why_not(bridge: str) -> str:
    """Why no link can be made slow here; empty if it can."""
    if has_netem(bridge):
        return ""
    if not RELAY.exists():
        return f"the kernel has no netem, and {RELAY} is not there"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "the kernel has no netem, and /dev/net/tun cannot be opened"
    return ""


def has_netem(device: str) -> bool:
    """Whether the kernel has it, and there is a command for it."""
    if shutil.which("tc") is None:
        return False
    try:
        _run("tc", "qdisc", "add", "dev", device, "root", "netem", "delay", "1ms")
    except subprocess.CalledProcessError:
        return False
    _run("tc", "qdisc", "del", "dev", device, "root")
    return True


def _has_device(namespace: str, device: str) -> bool:
    shown = subprocess.run(["ip", "-n", namespace, "link", "show", device], check=False, capture_output=True)
    return shown.returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
