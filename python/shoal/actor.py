"""Actors: classes whose instances live in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from shoal import _session, options
from shoal._actor_description import ClassDescription, MethodDescription
from shoal.remote_function import Code

if TYPE_CHECKING:
    from shoal import _shoal
    from shoal._shoal import ObjectRef
    from shoal.object_ref_generator import ObjectRefGenerator

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
    "get_actor",
    "kill",
    "method",
    "typed",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T0 = TypeVar("T0")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)

MAX_CONCURRENCY_ASYNC = 1000


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class; derive both from a plain class instead."""


# --- classes --------------------------------------------------------------------------------------


class ActorClass(Generic[P, C_co]):
    """A class whose instances are actors. Made by `shoal.remote`.

    ``Cls.remote(*args, **kwargs)`` starts a process, makes the instance there and returns a handle
    at once. Other attributes are those of the class itself.

    Type parameters: what the constructor takes, and the class.
    """

    def __init__(self, cls: type, given: dict[str, Any]) -> None:
        self._set_up(cls, given, Code(cls))

    def _set_up(self, cls: type, given: dict[str, Any], code: Code) -> None:
        self._class = cls
        self._default_options = given
        self._code = code
        self._description: ClassDescription | None = None
        self.__name__ = f"ActorClass({cls.__name__})"
        self.__qualname__ = self.__name__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ActorHandle[C_co]:
        """Create an actor.

        Raises:
            TypeError: the arguments do not fit the constructor.
            ActorAlreadyExistsError: a living actor has the name. It is also a ValueError.

        Example:
            >>> import shoal
            >>> @shoal.remote
            ... class Echo:
            ...     def say(self, text):
            ...         return text
            >>> echo = Echo.options(name="echo").remote()
            >>> shoal.get(echo.say.remote("hello"))
            'hello'
        """
        return self._create(args, kwargs, self._default_options)

    def options(self, **actor_options: Any) -> ActorClass[P, C_co]:
        """The same class with other options; the class itself stays as it is.

        Takes the options of `shoal.remote` except ``concurrency_groups``. ValueError or TypeError
        when an option is unknown or its value impossible.
        """
        options.validate_actor(actor_options, in_options=True)
        variant: ActorClass[P, C_co] = ActorClass.__new__(ActorClass)
        variant._set_up(self._class, {**self._default_options, **actor_options}, self._code)
        variant._description = self._description
        return variant

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **actor_options: Any,
    ) -> ActorHandle[C_co]:
        """`options` and `remote` in one call."""
        cls: Any = self.options(**actor_options) if actor_options else self
        handle: ActorHandle[C_co] = cls.remote(*(args or ()), **(kwargs or {}))
        return handle

    def bind(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported yet: graphs of calls that are built before they run."""
        raise NotImplementedError("bind() is not supported yet: call remote() with references")

    @property
    def __ray_actor_class__(self) -> type:
        return self._class

    def _describe(self) -> ClassDescription:
        if self._description is None:
            self._description = ClassDescription.of(self._class)
        return self._description

    def _create(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: dict[str, Any]) -> ActorHandle[C_co]:
        description = self._describe()
        description.constructor.check(args, kwargs)
        name, namespace = given.get("name"), given.get("namespace")
        if given.get("get_if_exists"):
            assert name is not None
            return self._get_or_create(args, kwargs, given, name, namespace)
        return _create_actor(self._code, description, args, kwargs, given)

    def _get_or_create(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: dict[str, Any],
        name: str,
        namespace: str | None,
    ) -> ActorHandle[C_co]:
        from shoal.exceptions import ActorAlreadyExistsError

        given = {**given, "get_if_exists": False}
        while True:
            try:
                return get_actor(name, namespace)
            except ValueError:
                pass
            try:
                return self._create(args, kwargs, given)
            except ActorAlreadyExistsError:
                # Somebody else was faster; theirs may even be gone again by now.
                continue

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not possible: an actor is created with ``.remote()``."""
        name = self._class.__name__
        raise TypeError(f"An actor class cannot be instantiated directly: use {name}.remote() instead of {name}().")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        name = self._class.__name__
        raise ActorClassInheritanceException(
            f"A class cannot be derived from the actor class {name}. Keep {name} a plain class, "
            "derive from that, and make actor classes of both with shoal.remote()."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"actor class {self._class_name()} has no attribute {name!r}")
        return getattr(self._class, name)

    def _class_name(self) -> str:
        cls = self.__dict__.get("_class")
        return cls.__name__ if cls is not None else "?"

    def __repr__(self) -> str:
        return self.__name__

    def __reduce__(self) -> tuple[Any, ...]:
        # In two steps, because methods may refer to their class by this object.
        return ActorClass.__new__, (ActorClass,), (self._class, self._default_options)

    def __setstate__(self, state: tuple[type, dict[str, Any]]) -> None:
        self._set_up(state[0], state[1], Code(state[0]))


def make_actor_class(cls: type, given: dict[str, Any]) -> ActorClass[..., Any]:
    """What `shoal.remote` does to a class."""
    options.validate_actor(given, in_options=False)
    options.concurrency_groups(given)
    return ActorClass(cls, given)


def _create_actor(
    code: Code,
    description: ClassDescription,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    given: dict[str, Any],
) -> ActorHandle[Any]:
    session = _session.require()
    from shoal import _shoal

    groups = options.concurrency_groups(given)
    description.check_groups({name for name, _ in groups})
    limit = given.get("max_concurrency") or (MAX_CONCURRENCY_ASYNC if description.asynchronous else 1)
    out_of_order = given.get("allow_out_of_order_execution")
    concurrent = description.asynchronous or limit > 1
    if out_of_order is None:
        out_of_order = concurrent or bool(groups)
    elif concurrent and not out_of_order:
        raise ValueError(
            "An actor with `async def` methods or max_concurrency above 1 cannot run calls in "
            "order: leave allow_out_of_order_execution out, or set it to True."
        )
    defaults = HandleDefaults(
        retries=given.get("max_task_retries") or 0,
        pending_max=_or(given.get("max_pending_calls"), -1),
        any_order=out_of_order,
        groups=tuple(name for name, _ in groups),
    )
    placement, running = options.actor_resources(given)
    actor = _shoal.create_actor(
        code=code.pickled(session),
        label=description.name,
        args=args,
        kwargs=kwargs,
        placement=placement,
        running=running,
        strategy=options.placement(given, running, placement),
        variables=options.variables(given.get("runtime_env")),
        restarts_max=given.get("max_restarts") or 0,
        name=given.get("name") or "",
        namespace=given.get("namespace") or session.namespace,
        detached=given.get("lifetime") == "detached",
        asynchronous=description.asynchronous,
        groups=[("", limit), *groups],
        out_of_order=out_of_order,
        handle=_pack(description, defaults),
    )
    return ActorHandle(actor, description, defaults, session)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


# --- handles --------------------------------------------------------------------------------------


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


def _pack(description: ClassDescription, defaults: HandleDefaults) -> bytes:
    import pickle

    return pickle.dumps((description, defaults), protocol=5)


def _unpack(handle: bytes) -> tuple[ClassDescription, HandleDefaults]:
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
            _check_session(self, self._session)
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


# --- methods ------------------------------------------------------------------------------------


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


# --- functions ------------------------------------------------------------------------------------


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """A handle to the living actor of that name. The handle does not keep the actor alive.

    Args:
        name: The actor's name.
        namespace: Where the name counts; the one of this program by default.

    Raises:
        ValueError: there is no such actor.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... class Echo:
        ...     def say(self, text):
        ...         return text
        >>> original = Echo.options(name="the echo").remote()
        >>> shoal.get(shoal.get_actor("the echo").say.remote("hello"))
        'hello'
    """
    if not isinstance(name, str):
        raise TypeError(f"an actor's name is a string, not {name!r}")
    if not name:
        raise ValueError("an actor's name cannot be empty")
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"a namespace is a string, not {namespace!r}")
    if namespace == "":
        raise ValueError("a namespace cannot be empty")
    session = _session.require()
    from shoal import _shoal

    where = session.namespace if namespace is None else namespace
    found = _shoal.ask("actor_by_name", {"name": name, "namespace": where})
    if found is None:
        raise ValueError(
            f"There is no living actor named {name!r} in namespace {where!r}. It may have ended, "
            "or have another namespace; list_named_actors() tells which there are."
        )
    actor, handle = found
    description, defaults = _unpack(handle)
    return ActorHandle(actor, description, defaults, session)


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor at once. Its calls fail with ActorDiedError; its exit handlers do not run.

    Args:
        actor: A handle.
        no_restart: End it for good; else it starts again if it has restarts left.

    Raises:
        ValueError: `actor` is no handle of an actor.
        ActorHandleNotFoundError: it is one of another session. It is also a ValueError.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... class Idle:
        ...     pass
        >>> shoal.kill(Idle.remote())
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes the handle of an actor, not {actor!r}")
    _check_session(actor, actor._shoal_session)
    actor._shoal_actor.kill(no_restart)


def _check_session(thing: object, session: _session.Session) -> None:
    """ActorHandleNotFoundError if `thing` belongs to a session that this process has left."""
    if session is not _session.require():
        from shoal.exceptions import ActorHandleNotFoundError

        raise ActorHandleNotFoundError(f"{thing!r} belongs to another session: handles are of no use after shutdown()")


class _ActorExit(SystemExit):
    """Unwinds a method that has called `exit_actor`; passes through ``except Exception``."""


def exit_actor() -> NoReturn:
    """End the actor that this method belongs to. It is not started again.

    The running call, and calls that have not started, fail with ActorDiedError; calls that run at
    the same time are finished, and exit handlers run.

    Raises:
        TypeError: the caller is not a method of an actor.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... class Once:
        ...     def stop(self):
        ...         shoal.actor.exit_actor()
        >>> try:
        ...     shoal.get(Once.remote().stop.remote())
        ... except shoal.exceptions.ActorDiedError:
        ...     print("ended")
        ended
    """
    session = _session.find()
    if session is not None:
        from shoal import _shoal

        if _shoal.process_info()["actor"] is not None:
            _shoal.exit_actor_requested()
            asyncio = sys.modules.get("asyncio")
            if asyncio is not None and asyncio._get_running_loop() is not None:
                from shoal.exceptions import AsyncioActorExit

                raise AsyncioActorExit
            raise _ActorExit(0)
    raise TypeError("exit_actor() can only be called in a method of an actor")


# --- methods that every actor has -----------------------------------------------------------------


def _ready(actor: Any) -> bool:
    """True, once the constructor has returned."""
    return True


def _terminate(actor: Any) -> None:
    """End the actor after the calls before this one."""
    exit_actor()


def _call(actor: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `function(actor, *args, **kwargs)` in the actor's process."""
    return function(actor, *args, **kwargs)


SYSTEM_METHODS: dict[str, Callable[..., Any]] = {
    f"__{prefix}_{name}__": function
    for prefix in ("shoal", "ray")
    for name, function in (("ready", _ready), ("terminate", _terminate), ("call", _call))
}
"""What the executor calls, with the actor first, for methods that the class does not have."""
