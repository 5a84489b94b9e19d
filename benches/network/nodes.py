"""Clusters of either system with one node in each host."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from namespaces import Hosts

_START_SECONDS = 90
_RAY_PORT = 6379


class Cluster:
    """A node in each host, the first with the head. Node `i` has the resource `node<i>`.

    Args:
        system: "shoal" or "ray".
        python: The interpreter that has it.
        hosts: Where.
        store: Bytes of each node's object store.
        transport: How nodes of Shoal talk: "auto", "quic" or "grpc".
    """

    def __init__(self, system: str, python: Path, hosts: Hosts, store: int, transport: str = "auto") -> None:
        self.system = system
        self.hosts = hosts
        self._python = str(python)
        self._store = store
        self._transport = transport
        self._scratch = Path(tempfile.mkdtemp(prefix="net-"))
        self.address = ""

    def __enter__(self) -> Cluster:
        start = self._start_ray if self.system == "ray" else self._start_shoal
        for host in range(len(self.hosts.names)):
            start(host)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.system == "shoal":
            for host in reversed(range(len(self.hosts.names))):
                command = self._shoal(host, "stop", "--force")
                subprocess.run(command, check=False, capture_output=True, timeout=_START_SECONDS)
        for name in self.hosts.names:
            # All that is left of either system in the host; its namespace holds nothing else.
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, program: Path, *arguments: str, seconds: float) -> dict[str, float]:
        """Run a program in the first host; it prints one JSON object last."""
        arguments = ("--system", self.system, "--address", self.address, *arguments)
        command = self.hosts.command(0, self._python, str(program), *arguments)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=self._environment(), cwd="/"
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
        answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SHOAL_"))}
        return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "SHOAL_TRANSPORT": self._transport}

    def _shoal(self, host: int, verb: str, *arguments: str) -> list[str]:
        temp = self._scratch / str(host)
        return self.hosts.command(host, self._python, "-m", "shoal", verb, f"--temp-dir={temp}", *arguments)

    def _start_shoal(self, host: int) -> None:
        (self._scratch / str(host)).mkdir()
        arguments = [
            "--num-cpus=2",
            f"--resources={json.dumps({f'node{host}': 100})}",
            f"--object-store-memory={self._store}",
            f"--node-ip-address={self.hosts.addresses[host]}",
            f"--port={_RAY_PORT + 100}",
        ]
        if host == 0:
            arguments += ["--head", f"--state-dir={self._scratch}/state"]
        else:
            secrets = glob.glob(f"{self._scratch}/state/*secret*")
            arguments += [f"--address={self.hosts.addresses[0]}:{_RAY_PORT + 100}", f"--secret-file={secrets[0]}"]
        self._start(self._shoal(host, "start", *arguments))
        if host == 0:
            self.address = glob.glob(f"{self._scratch}/0/*/session-*/node.sock")[0]

    def _start_ray(self, host: int) -> None:
        arguments = [
            "--num-cpus=2",
            f"--resources={json.dumps({f'node{host}': 100})}",
            f"--object-store-memory={self._store}",
            f"--node-ip-address={self.hosts.addresses[host]}",
            "--disable-usage-stats",
        ]
        self.address = f"{self.hosts.addresses[0]}:{_RAY_PORT}"
        if host == 0:
            temp = f"--temp-dir={self._scratch}/ray"
            arguments += ["--head", f"--port={_RAY_PORT}", "--include-dashboard=false", temp]
        else:
            arguments.append(f"--address={self.address}")
        ray = str(Path(self._python).with_name("ray"))
        self._start(self.hosts.command(host, ray, "start", *arguments))

    def _start(self, command: list[str]) -> None:
        log = self._scratch / "start.log"
        with log.open("ab") as output:
            # What runs in the background inherits the descriptors: a pipe would never end.
            done = subprocess.run(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                cwd="/",
                timeout=_START_SECONDS,
            )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()}")
