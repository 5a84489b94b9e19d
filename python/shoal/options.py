"""Options of tasks, actors and methods: what they may be, and what they mean to the runtime."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shoal import _labels

__all__ = ["ACTOR_OPTIONS", "METHOD_OPTIONS", "TASK_OPTIONS"]

_SMALLEST_AMOUNT = 0.0001
_RESERVED_RESOURCES = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory",
    "object_store_memory": "object_store_memory",
}
_WHOLE_UNIT_RESOURCES = frozenset({"GPU", "TPU", "neuron_cores", "NPU", "HPU", "RBLN", "FURIOSA", "TTNPU", "MBLT"})
SYSTEM_GROUPS = frozenset({"_ray_system", "_ray_system_error", "_shoal_system"})

Strategy = str | tuple[int, bool, bool] | tuple[bytes, int, bool]


class Option(NamedTuple):
    """One option: the types it takes, and a check that returns what is wrong, or None."""

    types: tuple[type, ...]
    check: Callable[[Any], str | None] = lambda value: None

    def validate(self, name: str, value: Any) -> None:
        """TypeError for a value of another type, ValueError for one that is out of range."""
        if not isinstance(value, self.types) or (
            isinstance(value, bool) and bool not in self.types and int in self.types
        ):
            allowed = " or ".join("None" if t is type(None) else t.__name__ for t in self.types)
            raise TypeError(f"option '{name}' takes {allowed}, not {type(value).__name__} {value!r}")
        wrong = self.check(value)
        if wrong is not None:
            raise ValueError(wrong)


_NONE = type(None)


def _count(name: str, *, unlimited: bool) -> Option:
    lowest = -1 if unlimited else 0
    also = ", or -1 for no limit" if unlimited else ""

    def check(value: int | None) -> str | None:
        if value is None or value >= lowest:
            return None
        return f"option '{name}' takes None or a whole number from 0 on{also}, not {value}"

    return Option((int, _NONE), check)


def _amount(name: str, resource: str) -> Option:
    def check(value: float | None) -> str | None:
        return None if value is None else _wrong_amount(name, resource, value)

    return Option((int, float, _NONE), check)


def _wrong_amount(name: str, resource: str, value: float) -> str | None:
    if not isinstance(value, int | float):
        return f"the amount of {name} is a number, not {value!r}"
    if math.isnan(value) or math.isinf(value) or value < 0:
        return f"the amount of {name} cannot be negative or infinite, but is {value}"
    if 0 < value < _SMALLEST_AMOUNT:
        return f"the amount of {name} is {value}, but the smallest is {_SMALLEST_AMOUNT}"
    if resource in _WHOLE_UNIT_RESOURCES and value > 1 and value != int(value):
        return f"the amount of {name} is {value}, but above 1 it must be a whole number"
    return None


def check_resources(resources: Mapping[str, float] | None) -> str | None:
    """What is wrong with a dictionary of custom resources, or None."""
    for name, value in (resources or {}).items():
        if not isinstance(name, str) or not name:
            return f"a resource's name is a string that is not empty, not {name!r}"
        if name in _RESERVED_RESOURCES:
            return f"{name} is asked for with '{_RESERVED_RESOURCES[name]}', not in 'resources'"
        if name == "bundle":
            return "'bundle' is a reserved name and cannot be a resource"
        wrong = _wrong_amount(name, name, value)
        if wrong is not None:
            return wrong
    return None


def _check_returns(value: int | str | None) -> str | None:
    if value is None or value in ("streaming", "dynamic"):
        return None
    if isinstance(value, int) and value >= 0:
        return None
    return f"option 'num_returns' takes a whole number from 0 on or 'streaming', not {value!r}"


def _check_retry_exceptions(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if all(isinstance(item, type) and issubclass(item, Exception) for item in value):
        return None
    return f"option 'retry_exceptions' takes True, False or a list of Exception classes, not {value}"


def _check_backpressure(value: int | None) -> str | None:
    if value is None or value > 0 or value == -1:
        return None
    return (
        f"option '_generator_backpressure_num_objects' takes a whole number from 1 on, or -1 for no limit, not {value}"
    )


def _check_per_yield(value: int | None) -> str | None:
    if value is None or value == 1:
        return None
    return f"option '_num_objects_per_yield' can only be 1, not {value}"


def _check_lifetime(value: str | None) -> str | None:
    if value in (None, "detached", "non_detached"):
        return None
    return f"option 'lifetime' takes None, 'detached' or 'non_detached', not {value!r}"


def _check_strategy(value: Any) -> str | None:
    if isinstance(value, str) and value not in ("DEFAULT", "SPREAD"):
        return f"option 'scheduling_strategy' takes 'DEFAULT', 'SPREAD' or an object, not {value!r}"
    return None


def _check_object_store_memory(value: int | None) -> str | None:
    if value is None:
        return None
    return "option 'object_store_memory' is not implemented for tasks"


def _check_labels(value: Any) -> str | None:
    return _labels.check_labels(value)


_ANY = Option((object,))

_COMMON: dict[str, Option] = {
    "num_cpus": _amount("num_cpus", "CPU"),
    "num_gpus": _amount("num_gpus", "GPU"),
    "memory": _amount("memory", "memory"),
    "resources": Option((dict, _NONE), check_resources),
    "accelerator_type": Option((str, _NONE)),
    "name": Option((str, _NONE)),
    "runtime_env": Option((dict, _NONE)),
    "scheduling_strategy": Option((object,), _check_strategy),
    "label_selector": Option((dict, _NONE), _labels.check_selector),
    "fallback_strategy": Option((list, _NONE), _labels.check_fallback),
    "enable_task_events": Option((bool,)),
    "placement_group": _ANY,
    "placement_group_bundle_index": Option((int,)),
    "placement_group_capture_child_tasks": Option((bool, _NONE)),
    "_labels": Option((dict, _NONE), _check_labels),
}

_CALL: dict[str, Option] = {
    "num_returns": Option((int, str, _NONE), _check_returns),
    "retry_exceptions": Option((bool, list, tuple), _check_retry_exceptions),
    "_generator_backpressure_num_objects": Option((int, _NONE), _check_backpressure),
    "_num_objects_per_yield": Option((int, _NONE), _check_per_yield),
}

TASK_OPTIONS: dict[str, Option] = {
    **_COMMON,
    **_CALL,
    "max_retries": _count("max_retries", unlimited=True),
    "max_calls": _count("max_calls", unlimited=False),
    "object_store_memory": Option((int, _NONE), _check_object_store_memory),
}

ACTOR_OPTIONS: dict[str, Option] = {
    **_COMMON,
    "namespace": Option((str, _NONE)),
    "get_if_exists": Option((bool,)),
    "lifetime": Option((str, _NONE), _check_lifetime),
    "max_restarts": _count("max_restarts", unlimited=True),
    "max_task_retries": _count("max_task_retries", unlimited=True),
    "max_concurrency": _count("max_concurrency", unlimited=False),
    "max_pending_calls": _count("max_pending_calls", unlimited=True),
    "concurrency_groups": Option((dict, list, _NONE)),
    "allow_out_of_order_execution": Option((bool, _NONE)),
    "object_store_memory": _count("object_store_memory", unlimited=False),
    "enable_tensor_transport": Option((bool, _NONE)),
    "_actor_generator_backpressure_num_objects": Option((int, _NONE), _check_backpressure),
}

METHOD_OPTIONS: dict[str, Option] = {
    **_CALL,
    "name": Option((str, _NONE)),
    "max_task_retries": _count("max_task_retries", unlimited=True),
    "concurrency_group": Option((str, _NONE)),
    "enable_task_events": Option((bool, _NONE)),
    "tensor_transport": Option((str, _NONE)),
    "_labels": Option((dict, _NONE), _check_labels),
}


# --- validation -------------------------------------------------------------------------------


def validate_task(options: Mapping[str, Any], *, in_options: bool) -> None:
    """ValueError or TypeError when these are not options of a remote function."""
    _validate(options, TASK_OPTIONS, "a remote function")
    if in_options and "max_calls" in options:
        raise ValueError("'max_calls' belongs to the definition and cannot be set in .options()")
    _refuse_unsupported(options)


def validate_actor(options: Mapping[str, Any], *, in_options: bool) -> None:
    """ValueError or TypeError when these are not options of an actor class."""
    _validate(options, ACTOR_OPTIONS, "an actor")
    if in_options and "concurrency_groups" in options:
        raise ValueError("'concurrency_groups' belongs to the definition and cannot be set in .options()")
    if options.get("name") == "":
        raise ValueError("an actor's name cannot be empty")
    if options.get("namespace") == "":
        raise ValueError("a namespace cannot be empty")
    if options.get("get_if_exists") and not options.get("name"):
        raise ValueError("'get_if_exists' needs the actor's 'name'")
    if options.get("max_concurrency") == 0:
        raise ValueError("'max_concurrency' must be at least 1")
    if options.get("enable_tensor_transport"):
        raise NotImplementedError("'enable_tensor_transport' is not supported yet")
    cap = options.get("_actor_generator_backpressure_num_objects")
    if cap is not None and cap != -1:
        raise NotImplementedError(
            "'_actor_generator_backpressure_num_objects' is not supported yet; limit each method "
            "with '_generator_backpressure_num_objects'"
        )
    _refuse_unsupported(options)


def validate_method(options: Mapping[str, Any]) -> None:
    """ValueError or TypeError when these are not options of an actor's method."""
    _validate(options, METHOD_OPTIONS, "an actor's method")
    if options.get("tensor_transport") is not None:
        raise NotImplementedError("'tensor_transport' is not supported yet")


def _validate(options: Mapping[str, Any], known: Mapping[str, Option], what: str) -> None:
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            raise ValueError(f"'{name}' is not an option of {what}; the options are {', '.join(sorted(known))}")
        option.validate(name, value)


def _refuse_unsupported(options: Mapping[str, Any]) -> None:
    """Refuse early what a cluster cannot honour yet, instead of ignoring it."""
    if options.get("placement_group", "default") not in (None, "default") and options.get("scheduling_strategy"):
        raise ValueError(
            "'placement_group' and 'scheduling_strategy' exclude each other; use "
            "scheduling_strategy=PlacementGroupSchedulingStrategy(...) alone"
        )
    if options.get("fallback_strategy"):
        raise NotImplementedError(
            "'fallback_strategy' is not supported yet; let 'label_selector' name all values that will do: "
            "{'zone': 'in(a,b)'}"
        )
    strategy(_scheduling_strategy(options))
    variables(options.get("runtime_env"))


# --- what the runtime is told ------------------------------------------------------------------


def resources(options: Mapping[str, Any], cpus_default: float) -> dict[str, float]:
    """Amounts by resource name; memory in bytes. Zero amounts are left out."""
    cpus = options.get("num_cpus")
    amounts = {
        "CPU": float(cpus_default if cpus is None else cpus),
        "GPU": float(options.get("num_gpus") or 0),
        "memory": float(int(options.get("memory") or 0)),
    }
    for name, amount in (options.get("resources") or {}).items():
        amounts[name] = float(amount)
    accelerator = options.get("accelerator_type")
    if accelerator is not None:
        # A trace of a resource that only nodes with this kind of device have.
        amounts[f"accelerator_type:{accelerator}"] = 0.001
    return {name: amount for name, amount in amounts.items() if amount > 0}


def actor_resources(options: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What an actor needs free in order to be placed, and what it holds while it lives.

    Without any resource option it needs one CPU to be placed and holds none; with one it holds
    what it asks for, and one CPU unless `num_cpus` says otherwise.
    """
    names = ("num_cpus", "num_gpus", "accelerator_type")
    # A zero is an answer, too: `num_cpus=0` means placed anywhere.
    if options.get("resources") or any(options.get(name) is not None for name in names):
        held = resources(options, cpus_default=1)
        return held, held
    held = resources(options, cpus_default=0)
    return {**held, "CPU": 1.0}, held


def _scheduling_strategy(options: Mapping[str, Any]) -> Any:
    """The option of this name, or what the older options of placement groups say."""
    group = options.get("placement_group", "default")
    if group == "default":
        return options.get("scheduling_strategy")
    from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(
        group,
        options.get("placement_group_bundle_index", -1),
        options.get("placement_group_capture_child_tasks"),
    )


def placement(options: Mapping[str, Any], *needs: Mapping[str, float]) -> Strategy:
    """Where work runs that needs these amounts, at different times of its life.

    ValueError if that is in a placement group none of whose bundles can ever hold it.
    """
    found = strategy(_scheduling_strategy(options))
    match found:
        case (bytes() as group, bundle, _):
            for amounts in needs:
                _check_fits(group, bundle, amounts, _scheduling_strategy(options))
    return found


def _check_fits(group: bytes, bundle: int, amounts: Mapping[str, float], given: Any) -> None:
    handle = getattr(given, "placement_group", None) or _captured_handle(group)
    bundles = handle.bundle_specs
    if not -1 <= bundle < len(bundles):
        raise ValueError(
            f"placement group bundle index {bundle} is invalid: the group has the bundles 0 to {len(bundles) - 1}"
        )
    candidates = bundles if bundle == -1 else [bundles[bundle]]
    if not any(all(spec.get(name, 0) >= amount for name, amount in amounts.items()) for spec in candidates):
        which = "any bundle" if bundle == -1 else f"bundle {bundle}"
        raise ValueError(
            f"Cannot schedule this with the placement group: it needs {dict(amounts)}, which cannot fit into {which} "
            f"of {bundles}. Options such as num_cpus say what it needs; an actor needs one CPU to start by default."
        )


@functools.lru_cache(maxsize=1)
def _captured_handle(group: bytes) -> Any:
    from shoal.ids import PlacementGroupID
    from shoal.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID(group))


def strategy(value: Any) -> Strategy:
    """Where work runs: 'hybrid', 'spread', (node, soft, at once), or (placement group, bundle or -1, whether
    what it submits runs there, too).
    """
    if value is None and captured_group is not None:
        return captured_group, -1, True
    if value is None or value == "DEFAULT":
        return "hybrid"
    if value == "SPREAD":
        return "spread"
    from shoal.util import scheduling_strategies

    if isinstance(value, scheduling_strategies.NodeAffinitySchedulingStrategy):
        return value.to_core()
    if isinstance(value, scheduling_strategies.PlacementGroupSchedulingStrategy):
        group = value.to_core(captures=captured_group is not None)
        return "hybrid" if group is None else group
    if isinstance(value, scheduling_strategies.NodeLabelSchedulingStrategy):
        return "hybrid"
    raise TypeError(
        "option 'scheduling_strategy' takes None, 'DEFAULT', 'SPREAD' or an object of "
        f"shoal.util.scheduling_strategies, not {value!r}"
    )


def labels(options: Mapping[str, Any]) -> list[_labels.Selector]:
    """What the labels of a node must be that runs this."""
    found = _labels.to_core(options.get("label_selector") or {})
    given = options.get("scheduling_strategy")
    if given is None or isinstance(given, str):
        return found
    from shoal.util.scheduling_strategies import NodeLabelSchedulingStrategy

    return found + given.to_core() if isinstance(given, NodeLabelSchedulingStrategy) else found


captured_group: bytes | None = None
"""In a worker: the placement group in which what it submits runs, unless that says otherwise."""


def variables(runtime_env: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The environment variables that `runtime_env` asks for, on top of those that this process was
    started with; what else it asks for is refused.
    """
    if not runtime_env:
        return sorted(inherited_variables.items())
    from shoal.runtime_env import check

    check(runtime_env)
    return sorted({**inherited_variables, **(runtime_env.get("env_vars") or {})}.items())


inherited_variables: dict[str, str] = {}
"""In a worker: the variables that its task or actor asked for. What it submits inherits them."""


def task_retries(options: Mapping[str, Any]) -> int:
    """How often a task runs again after its worker crashed; -1 is no limit."""
    value = options.get("max_retries")
    if value is not None:
        return int(value)
    return int(os.environ.get("SHOAL_TASK_MAX_RETRIES", "3"))


def retry_exceptions(options: Mapping[str, Any]) -> bool | bytes:
    """Which exceptions are worth another attempt: none, all, or the pickled classes."""
    value = options.get("retry_exceptions", False)
    if isinstance(value, bool):
        return value
    from shoal import _serialization

    return _serialization.dumps(tuple(value))[0]


def max_calls(options: Mapping[str, Any]) -> int:
    """After how many calls a worker exits; 0 is never."""
    value = options.get("max_calls")
    if value is not None:
        return int(value)
    # Libraries for GPUs keep memory for as long as their process lives.
    return 1 if options.get("num_gpus") else 0


def returns(options: Mapping[str, Any], *, is_generator: bool) -> int:
    """How many results a call has; -1 is a stream of them."""
    value = options.get("num_returns")
    if value is None:
        return -1 if is_generator else 1
    if value in ("streaming", "dynamic"):
        if not is_generator:
            raise ValueError(f"num_returns='{value}' needs a generator function")
        return -1
    return int(value)


def backpressure(options: Mapping[str, Any]) -> int:
    """How many items of a generator may wait for their consumer; 0 is no limit."""
    value = options.get("_generator_backpressure_num_objects")
    return int(value) if value is not None and value > 0 else 0


def concurrency_groups(options: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The declared groups with how many calls of each run at once."""
    declared = options.get("concurrency_groups") or {}
    if isinstance(declared, list):
        declared = {group["name"]: group["max_concurrency"] for group in declared}
    groups = []
    for name, limit in declared.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"a concurrency group's name is a string, not {name!r}")
        if name in SYSTEM_GROUPS:
            raise ValueError(f"'{name}' is a reserved name and cannot be a concurrency group")
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"concurrency group '{name}' takes a whole number from 1 on")
        groups.append((name, limit))
    return groups
