"""Actors: classes whose instances live in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from shoal import _session, options
from shoal._actor_description import ClassDescription
from shoal._actor_handle import ActorHandle, ActorMethod, HandleDefaults, check_session, pack, typed, unpack
from shoal._actor_method import method
from shoal.remote_function import Code

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
C_co = TypeVar("C_co", covariant=True)

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
        labels=options.labels(given),
        variables=options.variables(given.get("runtime_env")),
        restarts_max=given.get("max_restarts") or 0,
        name=given.get("name") or "",
        namespace=given.get("namespace") or session.namespace,
        detached=given.get("lifetime") == "detached",
        asynchronous=description.asynchronous,
        groups=[("", limit), *groups],
        out_of_order=out_of_order,
        handle=pack(description, defaults),
    )
    return ActorHandle(actor, description, defaults, session)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


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
    description, defaults = unpack(handle)
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
    check_session(actor, actor._shoal_session)
    actor._shoal_actor.kill(no_restart)


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
