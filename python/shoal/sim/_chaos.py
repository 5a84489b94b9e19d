"""Running a test with many seeds."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from shoal.sim._cluster import SEED_VARIABLE, Cluster, cluster

Test = TypeVar("Test", bound=Callable[..., Any])

COUNT_VARIABLE = "SHOAL_SIM_SEEDS"


def chaos(
    seeds: int | Iterable[int] = 100, *, faults: int = 0, within: float = 10.0, **options: Any
) -> Callable[[Test], Test]:
    """Run a test once for each of many seeds, each time in a new simulated cluster.

    The test's first parameter is the `Cluster`; other parameters are pytest's, as ever. It needs no plugin. When
    a seed fails, the same seed is run once more, and the failure says whether it fails again, and how to run it
    alone: ``SHOAL_SIM_SEED=17 pytest test_bank.py::test_transfer``. ``SHOAL_SIM_SEEDS=5000`` runs more seeds.

    Args:
        seeds: How many, or which.
        faults: So many random faults happen in each run; see `Cluster.random_faults`.
        within: In the first so many seconds of virtual time.
        **options: Those of `cluster`: `nodes`, `num_cpus`, ….

    Example:
        >>> import shoal, shoal.sim
        >>> @shoal.sim.chaos(seeds=3, nodes=2, faults=2)
        ... def test_squares(c):
        ...     @shoal.remote(max_retries=-1)
        ...     def square(x):
        ...         return x * x
        ...     assert shoal.get([square.remote(x) for x in range(5)]) == [0, 1, 4, 9, 16]
        >>> test_squares()
    """

    def decorate(test: Test) -> Test:
        def run(seed: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cluster:
            simulated = cluster(seed=seed, **options)
            with simulated:
                if faults:
                    simulated.random_faults(faults, within=within)
                test(simulated, *args, **kwargs)
            return simulated

        @functools.wraps(test)
        def run_all(*args: Any, **kwargs: Any) -> None:
            for seed in _seeds(seeds):
                try:
                    run(seed, args, kwargs)
                except Exception as error:
                    again = _outcome(lambda seed=seed: run(seed, args, kwargs))  # type: ignore[misc]
                    _explain(error, again, seed, test)
                    raise

        # The cluster is no fixture: pytest is not to look for one.
        signature = inspect.signature(test)
        _, *others = signature.parameters.values()
        run_all.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        del run_all.__wrapped__
        return run_all  # type: ignore[return-value]

    return decorate


def _seeds(seeds: int | Iterable[int]) -> Iterable[int]:
    only = os.environ.get(SEED_VARIABLE)
    if only:
        return [int(only)]
    count = os.environ.get(COUNT_VARIABLE)
    if count:
        return range(int(count))
    return range(seeds) if isinstance(seeds, int) else seeds


def _outcome(run: Callable[[], Any]) -> BaseException | None:
    try:
        run()
    except Exception as error:
        return error
    return None


def _explain(error: BaseException, again: BaseException | None, seed: int, test: Callable[..., Any]) -> None:
    if type(again) is type(error):
        error.add_note(f"Seed {seed} was run again, and failed again.")
    else:
        became = "passed" if again is None else f"raised {type(again).__name__}"
        error.add_note(
            f"Seed {seed} was run again, and {became}: something that the simulation does not decide takes part in "
            "it, such as a real clock, a thread of another library, or what earlier runs have left behind."
        )
    where = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" (")[0]
    command = f"pytest {where!r}" if where else f"{os.path.basename(sys.executable)} {sys.argv[0]}"
    error.add_note(f"{test.__name__} fails with seed {seed}. To replay: {SEED_VARIABLE}={seed} {command}")
