"""The decorator of methods of actor classes, and how type checkers see what it decorates."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from shoal import options
from shoal._actor_handle import ActorMethod

if TYPE_CHECKING:
    from shoal._shoal import ObjectRef
    from shoal.object_ref_generator import ObjectRefGenerator

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F_co = TypeVar("F_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class _TypedMethod(Protocol[F_co, Result_co]):
    """How type checkers see a method under `method`: plain in the class, remote on a handle."""

    @overload
    def __get__(self, instance: None, owner: object, /) -> F_co: ...
    @overload
    def __get__(
        self: _TypedMethod[Callable[Concatenate[Any, P], R], Result_co],
        instance: object,
        owner: object,
        /,
    ) -> ActorMethod[Callable[P, R], Result_co]: ...


class _MethodDecorator(Protocol):
    """What `method(**options)` returns."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> _TypedMethod[Callable[P, T], ObjectRef[T]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Iterator[T]], /
    ) -> _TypedMethod[Callable[P, Iterator[T]], ObjectRefGenerator[T]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> _TypedMethod[Callable[P, T], ObjectRef[T]]: ...


class _ListMethodDecorator(Protocol):
    """What `method(num_returns=n)` returns."""

    def __call__(self, function: Callable[P, T], /) -> _TypedMethod[Callable[P, T], list[ObjectRef[Any]]]: ...


@overload
def method(function: Callable[P, Coroutine[Any, Any, T]], /) -> _TypedMethod[Callable[P, T], ObjectRef[T]]: ...
@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[P, Iterator[T]], /
) -> _TypedMethod[Callable[P, Iterator[T]], ObjectRefGenerator[T]]: ...
@overload
def method(function: Callable[P, T], /) -> _TypedMethod[Callable[P, T], ObjectRef[T]]: ...
@overload
def method(*, num_returns: Literal[1, "streaming", "dynamic"] | None, **options: Any) -> _MethodDecorator: ...
@overload
def method(*, num_returns: int, **options: Any) -> _ListMethodDecorator: ...
@overload
def method(**options: Any) -> _MethodDecorator: ...
def method(*functions: Any, **given: Any) -> Any:
    """Set options of a method of an actor class; also makes its types visible, see `typed`.

    Options:
        num_returns: How many values a call returns; ``"streaming"`` for a generator.
        max_task_retries: How often a call runs again after the actor died; -1 for no limit.
        retry_exceptions: True, or a list of exception classes: run again after these, too.
        concurrency_group: The group whose limit the method counts for.
        enable_task_events: Whether its calls appear in `shoal.timeline`.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... class Pairs:
        ...     @shoal.method(num_returns=2)
        ...     def pair(self):
        ...         return 1, 2
        >>> pairs = Pairs.remote()
        >>> first, second = pairs.pair.remote()
        >>> shoal.get(second)
        2
    """
    if len(functions) == 1 and callable(functions[0]) and not given:
        return functions[0]
    if functions or not given:
        raise TypeError(
            "method is a decorator: write it bare, @shoal.method, or with options by name, such "
            "as @shoal.method(num_returns=2)"
        )
    options.validate_method(given)

    def decorate(function: Any) -> Any:
        function.__shoal_method_options__ = given
        return function

    return decorate
