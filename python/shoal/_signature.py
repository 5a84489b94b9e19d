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
        low: A call with positional arguments alone needs at least this many; more than any call
            has if it always needs keywords.
        high: And takes at most this many.
        parameters: Name, kind (of `inspect.Parameter`) and whether there is a default; None if
            the function does not tell.
    """

    __slots__ = ("_any_keyword", "_checker", "_keywords", "_required", "high", "low", "parameters")

    def __init__(self, parameters: tuple[tuple[str, int, bool], ...] | None) -> None:
        self.parameters = parameters
        self._checker: inspect.Signature | None = None
        # How many positional arguments make a keyword a second value for its parameter.
        self._keywords: dict[str, int] = {}
        # Parameters without default, and how many positional arguments provide for each.
        self._required: list[tuple[str, int]] = []
        self._any_keyword = parameters is None
        if parameters is None:
            self.low, self.high = 0, _UNLIMITED
            return
        low = high = count = 0
        for name, kind, has_default in parameters:
            if kind == inspect.Parameter.VAR_POSITIONAL:
                high = _UNLIMITED
            elif kind == inspect.Parameter.VAR_KEYWORD:
                self._any_keyword = True
            elif kind == inspect.Parameter.KEYWORD_ONLY:
                self._keywords[name] = _UNLIMITED
                if not has_default:
                    low = _UNLIMITED
                    self._required.append((name, _UNLIMITED))
            else:
                count += 1
                high += 1
                low += not has_default
                if kind == inspect.Parameter.POSITIONAL_OR_KEYWORD:
                    self._keywords[name] = count
                if not has_default:
                    self._required.append((name, count))
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
        if self.parameters is None or self._fits(len(args), kwargs):
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
        # Slow, and what finds the words; it also decides where the quick answer is too strict.
        self._checker.bind(*args, **kwargs)

    def _fits(self, count: int, kwargs: Mapping[str, Any]) -> bool:
        """Whether `count` positional arguments and these keywords surely fit."""
        if count > self.high:
            return False
        keywords = self._keywords
        for name in kwargs:
            position = keywords.get(name)
            if position is None:
                if not self._any_keyword:
                    return False
            elif position <= count:
                return False
        return all(position <= count or (name in keywords and name in kwargs) for name, position in self._required)

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (self.parameters,)
