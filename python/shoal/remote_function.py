"""Remote functions: what `shoal.remote` makes of a function."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, overload

from shoal import _session, options
from shoal._signature import Signature
from shoal.object_ref_generator import ObjectRefGenerator, StreamingSubmitter

if TYPE_CHECKING:
    from shoal._shoal import ObjectRef
    from shoal.object_ref_generator import Submitter

__all__ = ["RemoteFunction"]

P = ParamSpec("P")
T = TypeVar("T")
T0 = TypeVar("T0")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")
T7 = TypeVar("T7")
F_co = TypeVar("F_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)
Result2 = TypeVar("Result2")

CODE_BYTES_WARN = 10 * 1024 * 1024
CODE_BYTES_MAX = 100 * 1024 * 1024

# Programs call `f.options(...)` in loops; this many variants of a function are kept.
_VARIANTS_MAX = 64


class RemoteFunction(Generic[F_co, Result_co]):
    """A function whose calls run as tasks on the cluster. Made by `shoal.remote`.

    ``f.remote(*args, **kwargs)`` returns at once with a reference to the result (a list of them
    for ``num_returns`` above 1, None for 0, an `ObjectRefGenerator` for a generator). References
    among the arguments themselves are replaced by their values before the task starts; references
    inside lists and the like stay references.

    Type parameters: the function's type, and what ``remote`` returns.
    """

    def __init__(self, function: Callable[..., Any], given: dict[str, Any]) -> None:
        """`given`: the options set so far, checked."""
        functools.update_wrapper(self, function)
        self._set_up(function, given, Code(function))

    def _set_up(self, function: Callable[..., Any], given: dict[str, Any], code: Code) -> None:
        self._function = function
        self._default_options = given
        self._code = code
        self._core: Submitter | None = None
        self._variants: dict[Any, RemoteFunction[Any, Any]] = {}
        # No call passes until the signature is known, which is when the first one is made.
        self._low, self._high = 1, 0
        self._signature: Signature | None = None

    @property
    def _function_name(self) -> str:
        return getattr(self._function, "__name__", None) or repr(self._function)

    # The first form keeps names, defaults and keywords; the others let a reference to a value
    # stand for the value, which types can only say of positional arguments.
    @overload
    def remote(self: RemoteFunction[Callable[P, Any], Result_co], *args: P.args, **kwargs: P.kwargs) -> Result_co: ...
    @overload
    def remote(self: RemoteFunction[Callable[[T0], Any], Result_co], a0: T0 | ObjectRef[T0], /) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1, T2], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1, T2, T3], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1, T2, T3, T4], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1, T2, T3, T4, T5], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1, T2, T3, T4, T5, T6], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        a6: T6 | ObjectRef[T6],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[[T0, T1, T2, T3, T4, T5, T6, T7], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        a4: T4 | ObjectRef[T4],
        a5: T5 | ObjectRef[T5],
        a6: T6 | ObjectRef[T6],
        a7: T7 | ObjectRef[T7],
        /,
    ) -> Result_co: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task. TypeError when the arguments do not fit the function.

        Example:
            >>> import shoal
            >>> @shoal.remote
            ... def add(a: int, b: int = 1) -> int:
            ...     return a + b
            >>> shoal.get(add.remote(add.remote(1), b=3))
            5
        """
        if kwargs or not self._low <= len(args) <= self._high:
            self._check(args, kwargs)
        core = self._core
        if core is None:
            core = self._export()
        return core.submit(args, kwargs)

    @overload
    def options(
        self: RemoteFunction[Callable[P, Iterator[T]], Any],
        *,
        num_returns: Literal["streaming"],
        **options: Any,
    ) -> RemoteFunction[Callable[P, Iterator[T]], ObjectRefGenerator[T]]: ...
    @overload
    def options(self, *, num_returns: Literal[0], **options: Any) -> RemoteFunction[F_co, None]: ...
    @overload
    def options(
        self: RemoteFunction[Callable[P, T], Any], *, num_returns: Literal[1], **options: Any
    ) -> RemoteFunction[Callable[P, T], ObjectRef[T]]: ...
    @overload
    def options(self, *, num_returns: int, **options: Any) -> RemoteFunction[F_co, list[ObjectRef[Any]]]: ...
    @overload
    def options(self, **options: Any) -> RemoteFunction[F_co, Result_co]: ...
    def options(self, **task_options: Any) -> Any:
        """The same function with other options; the function itself stays as it is.

        Takes the options of `shoal.remote` except ``max_calls``. ValueError or TypeError when an
        option is unknown or its value impossible.

        Example:
            >>> import shoal
            >>> @shoal.remote
            ... def pair():
            ...     return 1, 2
            >>> first, second = pair.options(num_returns=2).remote()
            >>> shoal.get(second)
            2
        """
        try:
            key: Any = tuple((name, type(v), v) for name, v in sorted(task_options.items()))
            known = self._variants.get(key)
        except TypeError:
            key = known = None
        if known is not None:
            return known
        options.validate_task(task_options, in_options=True)
        variant: RemoteFunction[Any, Any] = RemoteFunction.__new__(RemoteFunction)
        functools.update_wrapper(variant, self._function)
        variant._set_up(self._function, {**self._default_options, **task_options}, self._code)
        if key is not None and len(self._variants) < _VARIANTS_MAX:
            self._variants[key] = variant
        return variant

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **task_options: Any,
    ) -> Any:
        """`options` and `remote` in one call."""
        function: Any = self.options(**task_options) if task_options else self
        return function.remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported yet: graphs of calls that are built before they run."""
        raise NotImplementedError("bind() is not supported yet: call remote() with references")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not possible: a task is submitted with ``.remote()``."""
        name = self._function_name
        raise TypeError(
            f"A remote function cannot be called directly: use {name}.remote() instead of "
            f"{name}(). To call it in this process, use {name}._function()."
        )

    def __repr__(self) -> str:
        return f"RemoteFunction({self._function_name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # In two steps, because a function may refer to itself by this object.
        return RemoteFunction.__new__, (RemoteFunction,), (self._function, self._default_options)

    def __setstate__(self, state: tuple[Callable[..., Any], dict[str, Any]]) -> None:
        function, given = state
        self._set_up(function, given, Code(function))
        # The function's own attributes are not complete yet if it is what is being unpickled.
        self.__name__ = getattr(function, "__name__", "function")
        self.__wrapped__ = function

    def forget_session(self) -> None:
        """Export the function again before its next call."""
        self._core = None

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        signature = self._signature
        if signature is None:
            signature = self._signature = Signature.of(self._function)
            self._low, self._high = signature.low, signature.high
        if kwargs or not self._low <= len(args) <= self._high:
            signature.check(args, kwargs)

    def _export(self) -> Submitter:
        """Make the extension's object for this function and these options."""
        session = _session.require()
        from shoal import _shoal

        given = self._default_options
        returns = options.returns(given, is_generator=is_generator(self._function))
        resources = options.resources(given, cpus_default=1)
        core: Any = _shoal.Function(
            code=self._code.pickled(session),
            name=given.get("name") or self._function_name,
            resources=resources,
            strategy=options.placement(given, resources),
            labels=options.labels(given),
            variables=options.variables(given.get("runtime_env")),
            returns=returns,
            backpressure=options.backpressure(given),
            retries_max=options.task_retries(given),
            retry_exceptions=options.retry_exceptions(given),
            calls_max=options.max_calls(given),
        )
        if returns == -1:
            core = StreamingSubmitter(core.submit)
        _session.bind(self)
        self._core = core
        return self._core


class Code:
    """A function or class, pickled once per session, however many sets of options it has."""

    __slots__ = ("_lock", "_pickled", "_session", "thing")

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self._session: Any = None
        self._pickled = b""
        self._lock = threading.Lock()

    def pickled(self, session: _session.Session) -> bytes:
        """The pickle; TypeError if there can be none, ValueError if it is too large."""
        with self._lock:
            if self._session is not session:
                self._pickled = self._pickle()
                self._session = session
            return self._pickled

    def _pickle(self) -> bytes:
        from shoal import _serialization

        data = _serialization.dumps_in_band(self.thing)
        name = getattr(self.thing, "__qualname__", repr(self.thing))
        if len(data) > CODE_BYTES_MAX:
            raise ValueError(
                f"The pickle of {name} has {len(data) / 2**20:.0f} MiB, and the most is "
                f"{CODE_BYTES_MAX / 2**20:.0f} MiB. It must capture large values: store them with "
                "put() and pass the references as arguments."
            )
        if len(data) > CODE_BYTES_WARN:
            warnings.warn(
                f"The pickle of {name} has {len(data) / 2**20:.0f} MiB: it must capture large "
                "values. Store them with put() and pass the references as arguments.",
                stacklevel=4,
            )
        return data


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether a call of `function` yields."""
    plain = inspect.unwrap(function)
    while isinstance(plain, functools.partial):
        plain = plain.func
    return inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)


def make_remote_function(function: Callable[..., Any], given: dict[str, Any]) -> RemoteFunction[Any, Any]:
    """What `shoal.remote` does to a function."""
    if inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise ValueError(
            f"{getattr(function, '__qualname__', function)} is an `async def` function, and those "
            "cannot be tasks. Make it a method of an actor, or call asyncio.run() in a plain one."
        )
    options.validate_task(given, in_options=False)
    if given.get("num_returns") in ("streaming", "dynamic"):
        options.returns(given, is_generator=is_generator(function))
    if given.get("num_returns") == "dynamic":
        warnings.warn("num_returns='dynamic' is deprecated; use 'streaming'", DeprecationWarning, stacklevel=3)
    return RemoteFunction(function, given)


def is_function(thing: Any) -> bool:
    """Whether `shoal.remote` can make a remote function of `thing`."""
    return inspect.isroutine(thing) or isinstance(thing, functools.partial)
