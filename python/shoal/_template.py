"""The template process: an interpreter that has everything imported, from which workers are forked.

It has one thread. Workers share its pages, so they start in about a millisecond and are small.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence


def main(link: int, segment: int, preload: Sequence[str]) -> None:
    """Serve fork requests on `link`; returns when the daemon is gone, and never in a worker."""
    import pickle  # noqa: F401

    import cloudpickle  # noqa: F401

    from shoal import _errors, _executor, _serialization, _session, _shoal  # noqa: F401

    for name in preload:
        try:
            importlib.import_module(name)
        except Exception as error:
            # The tasks that need it say more, where the user sees it.
            print(f"shoal: {name} cannot be imported beforehand: {error}", file=sys.stderr)
    gc.collect()
    # What is here now is never looked at by a worker's collector, so its pages stay shared.
    gc.freeze()
    worker = _shoal.run_template(link, segment)
    if worker is None:
        return
    _executor.main(worker)
