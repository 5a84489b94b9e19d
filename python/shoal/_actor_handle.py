"""Handles to actors, and the methods that they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from shoal import _session, options
from shoal._actor_description import ClassDescription, MethodDescription

if TYPE_CHECKING:
    from shoal import _shoal
    from shoal._shoal import ObjectRef
    from shoal.object_ref_generator import ObjectRefGenerator

P = ParamSpec("P")
T0 = TypeVar("T0")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class HandleDefaults:
    """Options of an actor that its handles apply to calls."""

    __slots__ = ("any_order", "groups", "pending_max", "retries")

    def __init__(self, retries: int, pending_max: int, any_order: bool, groups: tuple[str, ...]) -> None:
        self.retries = retries
        self.pending_max = pending_max
        self.any_order = any_order
        self.groups = groups

    def __reduce__(self) -> tuple[Any, ...]:
        return HandleDefaults, (self.retries, self.pending_max, self.any_order, self.groups)


def pack(description: ClassDescription, defaults: HandleDefaults) -> bytes:
    """What the head keeps of an actor for those who ask for it by its name."""
    import pickle

    return pickle.dumps((description, defaults), protocol=5)


def unpack(handle: bytes) -> tuple[ClassDescription, HandleDefaults]:
    """What `pack` was given."""
    import pickle

    description, defaults = pickle.loads(handle)
    return description, defaults


class ActorHandle(Generic[C_co]):
    """A handle to an actor: ``handle.method.remote(*args)`` calls a method.

    Handles can be passed to tasks and stored in objects. An actor ends when its last handle is
    gone, unless it is detached. Calls through one handle run in their order, one at a time,
    unless the actor is declared otherwise. Two handles are equal if they are of the same actor.

    Type parameter: the actor's class. Method types are only seen through `typed`.
    """

    # Names of methods are the user's: everything else has a prefix that nobody uses.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_shoal_actor",
        "_shoal_defaults",
        "_shoal_description",
        "_shoal_session",
    )

    def __init__(
        self,
        actor: _shoal.Actor,
        description: ClassDescription,
        defaults: HandleDefaults,
        session: _session.Session,
    ) -> None:
        self._shoal_actor = actor
        self._shoal_description = description
        self._shoal_defaults = defaults
        self._shoal_session = session

    def __getattr__(self, name: str) -> ActorMethod[Any, Any]:
        # Reached once per method: the result is kept in the instance's dictionary.
        if name.startswith("_shoal_"):
            raise AttributeError(name)
        description = self._shoal_description.method(name)
        if description is None:
            raise AttributeError(f"actor {self._shoal_description.name} has no method {name!r}")
        found: ActorMethod[Any, Any] = ActorMethod(
            self._shoal_actor, description, self._shoal_defaults, self._shoal_session, {}
        )
        self.__dict__[name] = found
        return found

    @property
    def _actor_id(self) -> Any:
        from shoal.ids import ActorID

        return ActorID(self._shoal_actor.binary())

    # The name under which programs written for Ray look at it.
    _ray_actor_id = _actor_id

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._shoal_description.methods]

    def __hash__(self) -> int:
        return hash(self._shoal_actor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._shoal_actor == other._shoal_actor

    def __repr__(self) -> str:
        return f"Actor({self._shoal_description.name}, {self._shoal_actor.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The extension's object is pickled itself: that is how the reference is counted.
        return _rebuild_handle, (self._shoal_actor, self._shoal_description, self._shoal_defaults)


def _rebuild_handle(actor: _shoal.Actor, description: ClassDescription, defaults: HandleDefaults) -> ActorHandle[Any]:
    return ActorHandle(actor, description, defaults, _session.require())


class ActorMethod(Generic[F_co, Result_co]):
    """A method of an actor: ``method.remote(*args)`` calls it. It keeps the actor alive.

    Type parameters: the method's type without ``self``, and what ``remote`` returns.
    """

    __slots__ = (
        "_actor",
        "_core",
        "_defaults",
        "_description",
        "_given",
        "_high",
        "_low",
        "_pending_max",
        "_session",
    )

    def __init__(
        self,
        actor: _shoal.Actor,
        description: MethodDescription,
        defaults: HandleDefaults,
        session: _session.Session,
        given: dict[str, Any],
    ) -> None:
        self._session = session
        self._description = description
        self._given = given
        self._defaults = defaults
        group = given.get("concurrency_group") or description.options.get("concurrency_group")
        if group and group not in defaults.groups:
            raise ValueError(f"the actor has no concurrency group {group!r}; it has {list(defaults.groups)}")
        self._core = description.core(given, defaults.retries, defaults.any_order)
        self._low, self._high = description.signature.low, description.signature.high
        self._pending_max = defaults.pending_max
        self._actor: Any = actor
        if description.streams(given):
            self._actor = _StreamingActor(actor)

    @overload
    def remote(self: ActorMethod[Callable[P, Any], Result_co], *args: P.args, **kwargs: P.kwargs) -> Result_co: ...
    @overload
    def remote(self: ActorMethod[Callable[[T0], Any], Result_co], a0: T0 | ObjectRef[T0], /) -> Result_co: ...
    @overload
    def remote(
        self: ActorMethod[Callable[[T0, T1], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: ActorMethod[Callable[[T0, T1, T2], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        /,
    ) -> Result_co: ...
    @overload
    def remote(
        self: ActorMethod[Callable[[T0, T1, T2, T3], Any], Result_co],
        a0: T0 | ObjectRef[T0],
        a1: T1 | ObjectRef[T1],
        a2: T2 | ObjectRef[T2],
        a3: T3 | ObjectRef[T3],
        /,
    ) -> Result_co: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method. TypeError when the arguments do not fit.

        Returns a reference to the result, a list of them for ``num_returns`` above 1, None for
        0, an `ObjectRefGenerator` for a generator. Raises PendingCallsLimitExceeded when the
        handle has ``max_pending_calls`` unfinished calls.
        """
        if kwargs or not self._low <= len(args) <= self._high:
            self._description.signature.check(args, kwargs)
        try:
            return self._actor.submit(self._core, args, kwargs, self._pending_max)
        except ConnectionError:
            check_session(self, self._session)
            raise

    def options(self, **method_options: Any) -> ActorMethod[F_co, Any]:
        """The same method with other options; see `shoal.method`, and ``name`` for people."""
        options.validate_method(method_options)
        actor = self._actor
        return ActorMethod(
            actor.actor if isinstance(actor, _StreamingActor) else actor,
            self._description,
            self._defaults,
            self._session,
            {**self._given, **method_options},
        )

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **method_options: Any,
    ) -> Any:
        """`options` and `remote` in one call."""
        called: Any = self.options(**method_options) if method_options else self
        return called.remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported yet: graphs of calls that are built before they run."""
        raise NotImplementedError("bind() is not supported yet: call remote() with references")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not possible: a method of an actor is called with ``.remote()``."""
        name = self._description.name
        raise TypeError(f"A method of an actor cannot be called directly: use {name}.remote() instead of {name}().")

    def __repr__(self) -> str:
        return f"ActorMethod({self._description.label})"


class _StreamingActor:
    """Wraps the stream that a call returns, so that other calls need not ask."""

    __slots__ = ("actor",)

    def __init__(self, actor: _shoal.Actor) -> None:
        self.actor = actor

    def submit(self, *arguments: Any) -> ObjectRefGenerator[Any]:
        from shoal.object_ref_generator import ObjectRefGenerator

        return ObjectRefGenerator(self.actor.submit(*arguments))


def typed(handle: ActorHandle[C]) -> C:
    """The handle itself, with the types of its class for type checkers.

    Checkers then see the types of all methods that are decorated with `shoal.method`.

    Example:
        >>> import shoal
        >>> class Counter:
        ...     def __init__(self) -> None:
        ...         self.value = 0
        ...     @shoal.method
        ...     def add(self, amount: int) -> int:
        ...         self.value += amount
        ...         return self.value
        >>> counter = shoal.actor.typed(shoal.remote(Counter).remote())
        >>> shoal.get(counter.add.remote(2))  # a checker sees int here
        2
    """
    return handle  # type: ignore[return-value]


def check_session(thing: object, session: _session.Session) -> None:
    """ActorHandleNotFoundError if `thing` belongs to a session that this process has left."""
    if session is not _session.require():
        from shoal.exceptions import ActorHandleNotFoundError

        raise ActorHandleNotFoundError(f"{thing!r} belongs to another session: handles are of no use after shutdown()")
