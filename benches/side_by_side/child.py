"""The measured process: starts a cluster, runs one group of measurements, shuts the cluster down.

Started by `supervisor.py` with the request as one JSON argument.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import adapter
from recorder import LOAD, Effort, Recorder, settle


def main() -> None:
    request = json.loads(sys.argv[1])
    effort = Effort(request["warm_up"], request["seconds"], request["runs"])
    record = Recorder(Path(request["records"]), request["lines"], effort)
    group, options = request["group"], request["options"]
    record.detail(LOAD, os.getloadavg()[0])

    # These groups say themselves when the module is imported and the cluster started.
    # Imports are here because a measured process should load no more than it needs.
    if group == "machine limits":
        import machine_limits

        machine_limits.measure(record)
        return
    if group.startswith("startup"):
        import startup

        startup.measure(request["system"], record, with_defaults=group.endswith("with defaults"))
        return
    if group.startswith("memory"):
        import memory

        memory.measure(request["system"], record, with_defaults=group.endswith("with defaults"))
        return

    import measurements
    import scale

    api = adapter.load(request["system"])
    functions = {
        "objects": measurements.objects,
        "first puts": measurements.first_puts,
        "tasks": measurements.tasks,
        "actors": measurements.actors,
        "async actors": measurements.async_actors,
        "placement groups": measurements.placement_groups,
    }
    needs = {"resources": {"custom": 100}} if group == "placement groups" else {}
    adapter.start(api, **needs)
    record.detail("processors busy before measuring", settle())
    if group == "scale":
        scale.measure(api, record, queued=options[f"queued on {request['system']}"])
    else:
        functions[group](api, record)
    api.shutdown()


if __name__ == "__main__":
    main()
