"""How long it takes from nothing to the first result: import, init, first task, 20 actors.

    python benches/side_by_side/startup.py                # both systems, three rounds
    python benches/side_by_side/startup.py --systems ray --rounds 1

Every sample comes from a new process, and the systems alternate.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import adapter
from recorder import Recorder

ACTORS = 20


def measure(system: str, record: Recorder, with_defaults: bool) -> None:
    """Take one sample of each start-up line in this process."""
    if not with_defaults:
        record.sample("import", _import_seconds(system))
    beginning = time.perf_counter()
    api = adapter.load(system)

    @api.remote
    def first():
        return "result"

    class Actor:
        def ready(self):
            return True

    actor_class: Any = api.remote(num_cpus=0)(Actor)

    begin = time.perf_counter()
    if with_defaults:
        adapter.start_with_defaults(api)
    else:
        adapter.start(api)
    record.sample("init", time.perf_counter() - begin)
    result = api.get(first.remote())
    end = time.perf_counter()
    assert result == "result", result
    record.sample("init to first result" + (", default options" if with_defaults else ""), end - begin)
    record.sample("import to first result", end - beginning)

    if record.wants("20 actors ready"):
        begin = time.perf_counter()
        actors = [actor_class.remote() for _ in range(ACTORS)]
        ready = api.get([actor.ready.remote() for actor in actors])
        record.sample("20 actors ready", time.perf_counter() - begin)
        assert ready == [True] * ACTORS, ready

    begin = time.perf_counter()
    api.shutdown()
    record.sample("shutdown", time.perf_counter() - begin)


def _import_seconds(system: str) -> float:
    """Time of the import statement in a new interpreter that has imported nothing else.

    The first interpreter only brings the files into the page cache.
    """
    program = f"import time; begin = time.perf_counter(); import {system}; print(time.perf_counter() - begin)"
    for _ in range(2):
        output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(output.stdout)


if __name__ == "__main__":
    import run

    run.main(["--groups", "startup", "startup with defaults", "--no-files", *sys.argv[1:]])
