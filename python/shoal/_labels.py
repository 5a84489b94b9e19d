"""Node labels: the syntax of their keys and values, and of the expressions that select nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LIST = re.compile(r"!?in\(([^()]*)\)")

NODE_ID = "ray.io/node-id"
"""The label that every node has, and nobody gives it: its id, as `shoal.nodes` shows it."""

Selector = tuple[str, list[str], bool]
"""What a label is to be, as the extension takes it: key, values (none: any), and whether these are excluded."""


def check_labels(labels: Mapping[str, str] | None) -> str | None:
    """What is wrong with the labels of a node, or None."""
    for key, value in (labels or {}).items():
        wrong = check_key(key) or check_value(value)
        if wrong:
            return wrong
        if key == NODE_ID:
            return f"the label '{key}' is the node's id, which the head gives it"
    return None


def check_selector(selector: Mapping[str, str] | None) -> str | None:
    """What is wrong with a label selector, or None.

    A value is ``v``, ``!v``, ``in(a,b)`` or ``!in(a,b)``.
    """
    for key, expression in (selector or {}).items():
        wrong = check_key(key)
        if wrong:
            return wrong
        if not isinstance(expression, str):
            return f"the label expression for '{key}' is a string, not {expression!r}"
        values = _values(expression)
        if expression and not all(values):
            return f"the label expression '{expression}' for '{key}' lacks a value"
        for value in values:
            wrong = check_value(value)
            if wrong:
                return wrong
    return None


def to_core(selector: Mapping[str, str]) -> list[Selector]:
    """A selector that was checked, as the extension takes it."""
    return [(key, _values(expression), expression.startswith("!")) for key, expression in selector.items()]


def _values(expression: str) -> list[str]:
    listed = _LIST.fullmatch(expression)
    values = listed.group(1).split(",") if listed else [expression.removeprefix("!")]
    return [value.strip() for value in values]


def check_fallback(strategies: list[Any] | None) -> str | None:
    """What is wrong with a list of fallback strategies, or None."""
    for strategy in strategies or []:
        if not isinstance(strategy, dict) or set(strategy) != {"label_selector"}:
            return f"a fallback strategy is a dict with 'label_selector' alone, not {strategy!r}"
        wrong = check_selector(strategy["label_selector"])
        if wrong:
            return wrong
    return None


def check_key(key: Any) -> str | None:
    """What is wrong with the key of a label, or None."""
    if not isinstance(key, str):
        return f"a label's key is a string, not {key!r}"
    prefix, slash, name = key.rpartition("/")
    if (slash and not _PREFIX.fullmatch(prefix)) or not _PART.fullmatch(name):
        return f"'{key}' is not a label key: at most 63 letters, digits, '-', '_' and '.'"
    return None


def check_value(value: Any) -> str | None:
    """What is wrong with the value of a label, or None."""
    if not isinstance(value, str):
        return f"a label's value is a string, not {value!r}"
    if value and not _PART.fullmatch(value):
        return f"'{value}' is not a label value: at most 63 letters, digits, '-', '_' and '.'"
    return None
