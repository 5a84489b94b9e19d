"""What this machine can do at best: the third column of the comparison.

Two Python processes that exchange bytes over a socket, the standard library's own ways of calling
another process, and copies of large arrays into shared memory. A measurement of a system cannot be much
better than the limit beside it, unless it does less; a compiled program exceeds the socket limits.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

import catalogue
from recorder import Recorder

MESSAGE = bytes(100)
IN_FLIGHT = 1000
SPINS = 200
GIGABYTE = 1e9
LARGE, SMALL = 100 * 1024 * 1024, 10 * 1024 * 1024  # elements of 8 bytes, as in the measurements of puts

Receive = Callable[[socket.socket, int], bytes]


def measure(record: Recorder) -> None:
    """Take every limit that is wanted."""
    _sockets(record)
    _standard_library(record)
    _copies(record)


def small_value(_message: bytes = b"") -> bytes:
    """The function that is called at the other end."""
    return b"ok"


def _sockets(record: Recorder) -> None:
    for name, receive in (
        ("socket round trip, blocking", _receive_blocking),
        (catalogue.ROUND_TRIP, _receive_spinning),
    ):
        with _process(partial(_echo, receive=receive)) as connection:

            def round_trip(receive: Receive = receive, connection: socket.socket = connection) -> None:
                connection.send(MESSAGE)
                receive(connection, len(MESSAGE))

            record.rate(name, round_trip)

    with _process(partial(_echo, receive=_receive_blocking)) as connection:

        def round_trips_in_flight() -> None:
            # One write for all: what a system that gathers small messages can do.
            connection.sendall(MESSAGE * IN_FLIGHT)
            missing = len(MESSAGE) * IN_FLIGHT
            while missing:
                missing -= len(connection.recv(missing))

        record.rate(catalogue.PIPELINE, round_trips_in_flight, IN_FLIGHT)


def _receive_blocking(connection: socket.socket, size: int) -> bytes:
    return connection.recv(size)


def _receive_spinning(connection: socket.socket, size: int) -> bytes:
    """Ask without sleeping for a while first: waking a sleeping process is most of a round trip."""
    for _ in range(SPINS):
        try:
            return connection.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            os.sched_yield()  # the process that has to answer may be waiting for this very processor
    return connection.recv(size)


def _echo(connection: socket.socket, receive: Receive) -> None:
    """Call `small_value` for each message received and answer as many bytes."""
    pending = 0
    while received := receive(connection, 64 * 1024):
        pending += len(received)
        calls, pending = divmod(pending, len(MESSAGE))
        connection.sendall(b"".join([small_value(received).ljust(len(MESSAGE)) for _ in range(calls)]))


@contextmanager
def _process(serve: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """A forked process that runs `serve` on the other end of the socket, until this end is closed."""
    here, there = socket.socketpair()
    for end in (here, there):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
    child = os.fork()
    if child == 0:
        try:
            here.close()
            serve(there)
        finally:
            os._exit(0)
    there.close()
    try:
        yield here
    finally:
        here.close()
        os.waitpid(child, 0)


def _standard_library(record: Recorder) -> None:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_echo_objects, args=(there, here))
    server.start()
    there.close()

    def round_trip() -> None:
        here.send(b"call")
        here.recv()

    record.rate("multiprocessing.Pipe echo", round_trip)
    here.close()
    server.join()

    with ProcessPoolExecutor(os.cpu_count()) as executor:
        record.rate("ProcessPoolExecutor sync", lambda: executor.submit(small_value).result())
        record.rate(
            "ProcessPoolExecutor async",
            lambda: [future.result() for future in [executor.submit(small_value) for _ in range(IN_FLIGHT)]],
            IN_FLIGHT,
        )


def _echo_objects(connection: Any, other_end: Any) -> None:
    other_end.close()  # a copy made by fork, which would keep the pipe open for ever
    try:
        while True:
            connection.recv()
            connection.send(small_value())
    except EOFError:
        return


def _copies(record: Recorder) -> None:
    _large_copies(record)
    with _shared_array(SMALL) as shared:
        # As many sources as the measurement of first puts has, so that the caches help as little.
        sources = [np.ones(SMALL, dtype=np.int64) for _ in range(10)]

        def copy_sources() -> None:
            for source in sources:
                np.copyto(shared, source)

        record.rate(catalogue.COPY_SMALL, copy_sources, 10 * SMALL * 8 / GIGABYTE)

    _copies_of_all_processors(record)

    def copy_cold() -> None:
        with _shared_array(SMALL, warm=False) as shared:
            np.copyto(shared, sources[0])

    record.rate("copy 84 MB into a cold shared mapping", copy_cold, SMALL * 8 / GIGABYTE)


def _large_copies(record: Recorder) -> None:
    with _shared_array(LARGE) as shared:
        array = np.zeros(LARGE, dtype=np.int64)
        record.rate(catalogue.COPY_LARGE, lambda: np.copyto(shared, array), array.nbytes / GIGABYTE)
        if record.wants(catalogue.COPY_WRITTEN):
            array.fill(1)
            record.rate(catalogue.COPY_WRITTEN, lambda: np.copyto(shared, array), array.nbytes / GIGABYTE)


def _copies_of_all_processors(record: Recorder) -> None:
    """One process per processor, each with a warm mapping, and a new array for every copy."""
    if not record.wants(catalogue.COPY_MULTI):
        return

    def serve(connection: socket.socket) -> None:
        with _shared_array(SMALL) as shared:
            while connection.recv(1):
                for _ in range(10):
                    np.copyto(shared, np.zeros(SMALL, dtype=np.int64))
                connection.send(b".")

    with ExitStack() as stack:
        connections = [stack.enter_context(_process(serve)) for _ in range(os.cpu_count() or 1)]

        def copy_everywhere() -> None:
            for connection in connections:
                connection.send(b".")
            for connection in connections:
                connection.recv(1)

        record.rate(catalogue.COPY_MULTI, copy_everywhere, len(connections) * 10 * SMALL * 8 / GIGABYTE)


@contextmanager
def _shared_array(elements: int, warm: bool = True) -> Iterator[np.ndarray]:
    """An array in memory that other processes could map; warm means that its pages are there already."""
    mapping = mmap.mmap(-1, elements * 8)
    array = np.frombuffer(mapping, dtype=np.int64)
    if warm:
        array.fill(0)
    try:
        yield array
    finally:
        del array
