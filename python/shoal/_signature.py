"""Check a call's arguments where it is made, at little more than the cost of a comparison."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

_UNLIMITED = sys.maxsize

# Stand-ins for defaults: a description that travels must not carry the program's values.
_DEFAULT = object()


class Signature:
    """What a function takes, without its defaults' values and without annotations.

    Attributes:
        low: A call with positional arguments alone needs at least this many; `_UNLIMITED` if it
            always needs keywords.
        high: And takes at most this many.
    """

    __slots__ = ("_checker", "_names", "high", "low", "parameters")

    def __init__(self, parameters: tuple[tuple[str, int, bool], ...] | None) -> None:
        """`parameters`: name, kind (of `inspect.Parameter`) and whether there is a default.

        None accepts any call: some functions of the interpreter do not tell what they take.
        """
        self.parameters = parameters
        self._checker: inspect.Signature | None = None
        if parameters is None:
            self.low, self.high = 0, _UNLIMITED
            return
        low = high = 0
        for _, kind, has_default in parameters:
            if kind == inspect.Parameter.VAR_POSITIONAL:
                high = _UNLIMITED
            elif kind == inspect.Parameter.KEYWORD_ONLY:
                low = low if has_default else _UNLIMITED
            elif kind != inspect.Parameter.VAR_KEYWORD:
                high = min(high + 1, _UNLIMITED)
                low += not has_default
        self.low, self.high = low, high

    @staticmethod
    def of(function: Callable[..., Any], *, skip_first: bool = False) -> Signature:
        """The signature of `function`, without its first parameter if that is bound already."""
        try:
            found = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return Signature(None)
        if (
            skip_first
            and found
            and found[0].kind
            in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
        ):
            del found[0]
        return Signature(tuple((p.name, int(p.kind), p.default is not inspect.Parameter.empty) for p in found))

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """TypeError, as Python words it, when these arguments do not fit."""
        if self.parameters is None:
            return
        if self._checker is None:
            self._checker = inspect.Signature(
                [
                    inspect.Parameter(
                        name,
                        inspect._ParameterKind(kind),
                        default=_DEFAULT if has_default else inspect.Parameter.empty,
                    )
                    for name, kind, has_default in self.parameters
                ]
            )
        self._checker.bind(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (self.parameters,)
