"""A ledger, and two ways to move money in it. One of them loses money when a worker dies at the wrong moment."""

from __future__ import annotations

import time

import shoal


@shoal.remote
class Ledger:
    """Who has how much."""

    def __init__(self, balances: dict[str, int]) -> None:
        self.balances = dict(balances)
        self.done: set[str] = set()

    def withdraw(self, account: str, amount: int) -> None:
        """Take money from an account."""
        self.balances[account] -= amount

    def deposit(self, account: str, amount: int) -> None:
        """Give it to another one."""
        self.balances[account] += amount

    def transfer(self, name: str, source: str, target: str, amount: int) -> None:
        """Do both, once for each name."""
        if name not in self.done:
            self.done.add(name)
            self.balances[source] -= amount
            self.balances[target] += amount

    def total(self) -> int:
        """All the money there is."""
        return sum(self.balances.values())


@shoal.remote(max_retries=-1)
def transfer(ledger: shoal.actor.ActorHandle[Ledger], source: str, target: str, amount: int) -> None:
    """Wrong: a retry after a crash in the middle takes the money again."""
    shoal.get(ledger.withdraw.remote(source, amount))
    time.sleep(0.1)  # asks somebody whether it may
    shoal.get(ledger.deposit.remote(target, amount))


@shoal.remote(max_retries=-1)
def transfer_once(ledger: shoal.actor.ActorHandle[Ledger], name: str, source: str, target: str, amount: int) -> None:
    """Right: a transfer has a name, and takes place whole and once, however often it is tried."""
    time.sleep(0.1)
    shoal.get(ledger.transfer.remote(name, source, target, amount))
