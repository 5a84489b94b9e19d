"""The hosts of `python -m chaos`: what is cut is cut, what is slow is slow, and all of it heals."""

import subprocess
import sys

import pytest
from chaos.hosts import Hosts

from harness import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.shoal_only(reason="hosts know nothing of either system")

ECHO = """
import socket
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("0.0.0.0", 7465))
while True:
    packet, sender = bound.recvfrom(100)
    bound.sendto(packet, sender)
"""

# How long it takes until a packet has come back; nothing if none does.
ASK = """
import socket, sys, time
asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asks.settimeout(2.0)
for number in range(int(sys.argv[2])):
    began = time.monotonic()
    asks.sendto(number.to_bytes(4, "big"), (sys.argv[1], 7465))
    try:
        while int.from_bytes(asks.recv(100), "big") != number:
            pass
        print(time.monotonic() - began)
        break
    except OSError:
        pass
"""


@pytest.fixture
def ask():
    """Hosts, one of them, and a function: it sends packets there until one comes back, and returns the seconds."""
    made = Hosts()
    if made.why_loopback:
        pytest.skip(f"hosts of their own cannot be made here: {made.why_loopback}")
    echo = None
    try:
        one, other = made.add(), made.add()
        run = ("ip", "netns", "exec")
        echo = subprocess.Popen([*run, other.namespace, sys.executable, "-c", ECHO])

        def ask(attempts):
            command = [*run, one.namespace, sys.executable, "-c", ASK, other.address, str(attempts)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
            return float(done.stdout) if done.stdout else None

        wait_until(lambda: ask(1) is not None, what="an answer")
        yield made, other, ask
    finally:
        if echo is not None:
            echo.kill()
            echo.wait()
        made.close()


def test_a_link_is_cut_and_heals(ask):
    _, host, ask = ask
    host.cut()
    assert ask(1) is None
    host.heal()
    assert ask(10) is not None


def test_a_link_is_slow_and_heals(ask):
    hosts, host, ask = ask
    if hosts.why_not_slow:
        pytest.skip(f"no link can be made slow here: {hosts.why_not_slow}")
    with host.link.slow(milliseconds=150, loss=0):
        assert ask(10) >= 0.3
    with host.link.slow(milliseconds=0, loss=1):
        assert ask(2) is None
    # Packets that find no delay need not be fast, but one of them is faster than that.
    wait_until(lambda: (ask(1) or 1) < 0.3, what="a link without delay")
