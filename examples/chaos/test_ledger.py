"""Chaos tests of the ledger: `pytest examples/chaos`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from ledger import Ledger, transfer, transfer_once

import shoal
import shoal.sim

# The ledger asks for what only the first machine has, which nothing happens to.
CLUSTER: dict[str, Any] = {"nodes": 3, "num_cpus": 2, "resources": [{"safe": 1}, {}, {}]}


def check(c: shoal.sim.Cluster, move: Callable[[Any, int], shoal.ObjectRef[None]]) -> None:
    """Move money while a machine loses its power, and count it."""
    ledger = Ledger.options(resources={"safe": 1}).remote({"alice": 100, "bob": 100})
    refs = [move(ledger, number) for number in range(6)]
    # The seed decides when, and which one.
    time.sleep(random.uniform(0, 0.3))
    c.kill_node()
    shoal.get(refs)
    assert shoal.get(ledger.total.remote()) == 200, "money was lost"


@shoal.sim.chaos(seeds=20, **CLUSTER)
def test_no_money_is_lost(c: shoal.sim.Cluster) -> None:
    """Transfers with names survive any machine's death."""
    check(c, lambda ledger, number: transfer_once.remote(ledger, f"transfer {number}", "alice", "bob", 10))


@shoal.sim.chaos(seeds=50, **CLUSTER)
def naive_transfers(c: shoal.sim.Cluster) -> None:
    """No test, for it fails: see the next one."""
    check(c, lambda ledger, number: transfer.remote(ledger, "alice", "bob", 10))


def test_the_bug_is_found() -> None:
    """Chaos finds what is wrong with the naive transfer, and says how to see it again."""
    with pytest.raises(AssertionError, match="money was lost") as found:
        naive_transfers()
    assert "SHOAL_SIM_SEED=" in found.value.__notes__[-1]
    print("\n".join(found.value.__notes__))
