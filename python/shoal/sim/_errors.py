"""What goes wrong with a simulation itself."""

from __future__ import annotations


class SimulationError(Exception):
    """The simulation ends, and with it the test: not because of an exception of the program's own."""


class DeadlockError(SimulationError):
    """Everybody waits for something that will never happen. The message says who waits, and for what."""


class TimeLimitError(SimulationError):
    """The program has not ended within the simulation's limit of virtual time."""


class StalledError(SimulationError):
    """A thread keeps the turn: it computes for very long, or waits for something outside of the simulation."""


class BrokenError(SimulationError):
    """An assertion of Shoal's own failed. Please report it, with the seed."""


class LeakError(SimulationError):
    """The driver has left, and something of it is still there: a bug of Shoal's own, to be reported with the seed."""


class ProcessKilled(BaseException):
    """Ends the threads of a simulated process that was killed.

    No `Exception`, so that a program does not handle it as one of its own errors: a process that is killed
    handles nothing.
    """
