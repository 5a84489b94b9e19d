"""What handles know of an actor's class: its methods, what they take, and their options.

It travels with every handle, so it holds no code and no values of the program, and is pickled once.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal import options
from shoal._signature import Signature
from shoal.remote_function import is_generator

if TYPE_CHECKING:
    from shoal import _shoal

_ANY_ARGUMENTS = Signature(None)
_NO_ARGUMENTS = Signature(())


class MethodDescription:
    """One method."""

    __slots__ = ("_cores", "is_generator", "label", "name", "options", "signature")

    def __init__(
        self,
        name: str,
        label: str,
        signature: Signature,
        is_generator: bool,
        given: dict[str, Any],
    ) -> None:
        self.name = name
        self.label = label
        self.signature = signature
        self.is_generator = is_generator
        self.options = given
        self._cores: dict[tuple[int, bool], _shoal.Method] = {}

    def streams(self, given: dict[str, Any]) -> bool:
        """Whether a call with these options returns a generator."""
        return options.returns({**self.options, **given}, is_generator=self.is_generator) == -1

    def core(self, given: dict[str, Any], retries: int, any_order: bool) -> _shoal.Method:
        """The extension's object; `retries` and `any_order` are what the actor says."""
        if given:
            return self._make_core({**self.options, **given}, retries, any_order)
        known = self._cores.get((retries, any_order))
        if known is None:
            known = self._cores[retries, any_order] = self._make_core(self.options, retries, any_order)
        return known

    def _make_core(self, given: dict[str, Any], retries: int, any_order: bool) -> _shoal.Method:
        from shoal import _shoal

        own = given.get("max_task_retries")
        return _shoal.Method(
            name=self.name,
            label=given.get("name") or self.label,
            returns=options.returns(given, is_generator=self.is_generator),
            backpressure=options.backpressure(given),
            retries_max=retries if own is None else own,
            retry_exceptions=options.retry_exceptions(given),
            group=given.get("concurrency_group") or "",
            any_order=any_order,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.name, self.label, self.signature, self.is_generator, self.options)
        return MethodDescription, fields


class ClassDescription:
    """An actor class.

    Attributes:
        name: The class's name.
        methods: Its public methods by name.
        constructor: What its constructor takes.
        asynchronous: Whether it has `async def` methods.
    """

    __slots__ = ("_pickled", "asynchronous", "constructor", "methods", "name")

    def __init__(
        self,
        name: str,
        methods: dict[str, MethodDescription],
        constructor: Signature,
        asynchronous: bool,
    ) -> None:
        self.name = name
        self.methods = methods
        self.constructor = constructor
        self.asynchronous = asynchronous
        self._pickled: bytes | None = None

    @staticmethod
    def of(cls: type) -> ClassDescription:
        """The description of `cls`."""
        methods = {}
        asynchronous = False
        for name, function in inspect.getmembers(cls, inspect.isroutine):
            static = inspect.getattr_static(cls, name)
            if name.startswith("__") and not _defined_in(cls, name):
                continue
            methods[name] = _describe_method(cls, name, function, static)
            plain = inspect.unwrap(function)
            asynchronous |= inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
        if "__init__" in methods:
            constructor = methods["__init__"].signature
        else:
            constructor = _NO_ARGUMENTS if cls.__init__ is object.__init__ else _ANY_ARGUMENTS  # type: ignore[misc]
        return ClassDescription(cls.__name__, methods, constructor, asynchronous)

    def method(self, name: str) -> MethodDescription | None:
        """The method of that name, or None."""
        found = self.methods.get(name)
        if found is not None:
            return found
        from shoal.actor import SYSTEM_METHODS

        function = SYSTEM_METHODS.get(name)
        if function is None:
            return None
        signature = Signature.of(function, skip_first=True)
        return MethodDescription(name, f"{self.name}.{name}", signature, False, {})

    def check_groups(self, declared: set[str]) -> None:
        """ValueError when a method names a concurrency group that is not declared."""
        for method in self.methods.values():
            group = method.options.get("concurrency_group")
            if group and group not in declared:
                raise ValueError(
                    f"{method.label} belongs to concurrency group {group!r}, which is not among "
                    f"the declared ones: {sorted(declared)}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled is None:
            fields = (self.name, self.methods, self.constructor, self.asynchronous)
            # Exception classes in options may be the program's own.
            from shoal import _serialization

            self._pickled = _serialization.dumps_in_band(fields)
        return _restore, (self._pickled,)


_restored: dict[bytes, ClassDescription] = {}


def _restore(pickled: bytes) -> ClassDescription:
    """Handles of one class share one description in each process."""
    known = _restored.get(pickled)
    if known is None:
        known = _restored[pickled] = ClassDescription(*pickle.loads(pickled))
        known._pickled = pickled
    return known


def _defined_in(cls: type, name: str) -> bool:
    """Whether a class of the user defines the special method `name`."""
    return any(name in vars(base) for base in cls.__mro__ if base.__module__ != "builtins")


def _describe_method(cls: type, name: str, function: Callable[..., Any], static: Any) -> MethodDescription:
    # `getmembers` gives class methods bound already, and static ones have nothing to bind.
    bound = isinstance(static, classmethod | staticmethod)
    plain = inspect.unwrap(function)
    return MethodDescription(
        name,
        f"{cls.__name__}.{name}",
        Signature.of(function, skip_first=not bound),
        is_generator(function),
        dict(getattr(plain, "__shoal_method_options__", {})),
    )
