"""`shoal.remote`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from shoal._shoal import ObjectRef
    from shoal.actor import ActorClass
    from shoal.object_ref_generator import ObjectRefGenerator
    from shoal.remote_function import RemoteFunction

__all__ = ["remote"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
C_co = TypeVar("C_co", covariant=True)


class _Class(Protocol[P, C_co]):
    """A class, with what its constructor takes."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co: ...
    @property
    def __mro__(self) -> tuple[type, ...]: ...


class _Decorator(Protocol):
    """What `remote(**options)` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: _Class[P, C_co], /
    ) -> ActorClass[P, C_co]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: type[C_co], /
    ) -> ActorClass[..., C_co]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, Iterator[T]], /
    ) -> RemoteFunction[Callable[P, Iterator[T]], ObjectRefGenerator[T]]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[Callable[P, R], ObjectRef[R]]: ...


class _NoResultDecorator(Protocol):
    """What `remote(num_returns=0)` returns."""

    def __call__(self, target: F, /) -> RemoteFunction[F, None]: ...


class _ListDecorator(Protocol):
    """What `remote(num_returns=n)` returns."""

    def __call__(self, target: F, /) -> RemoteFunction[F, list[ObjectRef[Any]]]: ...


@overload
def remote(target: _Class[P, C_co], /) -> ActorClass[P, C_co]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: type[C_co], /) -> ActorClass[..., C_co]: ...  # type: ignore[overload-overlap]
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, Iterator[T]], /
) -> RemoteFunction[Callable[P, Iterator[T]], ObjectRefGenerator[T]]: ...
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[Callable[P, R], ObjectRef[R]]: ...
@overload
def remote(*, num_returns: Literal[0], **options: Any) -> _NoResultDecorator: ...
@overload
def remote(*, num_returns: Literal[1, "streaming", "dynamic"] | None, **options: Any) -> _Decorator: ...
@overload
def remote(*, num_returns: int, **options: Any) -> _ListDecorator: ...
@overload
def remote(**options: Any) -> _Decorator: ...
def remote(*targets: Any, **given: Any) -> Any:
    """Make a remote function of a function, or an actor class of a class.

    Used as a decorator, bare or with options, or called: ``shoal.remote(f)``. A function's calls
    then run as tasks in worker processes; a class's instances live as actors in processes of
    their own.

    Options of both:
        num_cpus: CPUs it takes. 1 for a task; an actor needs 1 to be placed and takes none,
            unless this or another resource is given.
        num_gpus: GPUs it takes; above 1 only whole ones. Its process sees these alone.
        memory: Bytes of memory it takes; a promise for placement, not a limit.
        resources: Custom resources it takes, amounts by name.
        accelerator_type: Kind of accelerator that its node must have.
        name: For people; of an actor, a name to find it by.
        runtime_env: Surroundings of its process; ``env_vars`` is supported.
        scheduling_strategy: ``"DEFAULT"``, ``"SPREAD"`` or an object of
            `shoal.util.scheduling_strategies`.
        label_selector: What the labels of its node must be, by key: ``"a"``, ``"!a"``,
            ``"in(a,b)"`` or ``"!in(a,b)"``. Every node has the label ``ray.io/node-id``.

    Options of functions:
        num_returns: How many values a call returns, each with a reference of its own; 0 for none,
            ``"streaming"`` for a generator, which is the default for generator functions.
        max_retries: How often a task runs again after its worker died; 3 by default, -1 for no
            limit.
        retry_exceptions: True, or a list of exception classes: run again after these, too.
        max_calls: The worker exits after this many calls; 0 is never. 1 by default with GPUs.

    Options of classes:
        max_restarts: How often an actor starts again after its process died; -1 for no limit.
        max_task_retries: How often a call runs again after that; -1 for no limit.
        max_concurrency: How many calls run at once; 1, and 1000 with ``async def`` methods.
        concurrency_groups: Groups of methods with a limit each, by name.
        max_pending_calls: How many unfinished calls a handle may have; -1 for no limit.
        namespace: Where the name counts.
        lifetime: ``"detached"`` to outlive the process that made it.
        get_if_exists: Return the actor that has the name, if there is one.
        allow_out_of_order_execution: Let calls start in another order than they were made.

    Raises:
        ValueError: an option is unknown or its value impossible, or the function is ``async def``.
        TypeError: the target is neither a function nor a class.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> shoal.get(double.remote(21))
        42
        >>> @shoal.remote(num_cpus=0)
        ... class Counter:
        ...     def __init__(self):
        ...         self.value = 0
        ...     def increment(self):
        ...         self.value += 1
        ...         return self.value
        >>> counter = Counter.remote()
        >>> shoal.get([counter.increment.remote() for _ in range(3)])
        [1, 2, 3]
    """
    if len(targets) == 1 and not given:
        return _make(targets[0], {})
    if targets or not given:
        raise TypeError(
            "remote is a decorator: write it bare, @shoal.remote, or with options by name, such as "
            "@shoal.remote(num_cpus=2)"
        )
    return lambda target: _make(target, given)


def _make(target: Any, given: dict[str, Any]) -> Any:
    from shoal import actor, remote_function

    if inspect.isclass(target):
        return actor.make_actor_class(target, given)
    if remote_function.is_function(target):
        return remote_function.make_remote_function(target, given)
    if isinstance(target, remote_function.RemoteFunction | actor.ActorClass):
        raise TypeError(f"{target!r} is remote already")
    raise TypeError(f"remote takes a function or a class, not {target!r}")
