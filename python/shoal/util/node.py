"""Facts about this node."""

from __future__ import annotations

import threading

from shoal import _session

__all__ = ["get_node_instance_id", "get_node_ip_address", "log_once"]

_logged: set[str] = set()
_lock = threading.Lock()


def get_node_ip_address() -> str:
    """The address under which other nodes reach this one.

    Example:
        >>> import shoal
        >>> shoal.util.get_node_ip_address()
        '127.0.0.1'
    """
    return str(_session.address_info()["node_ip_address"])


def get_node_instance_id() -> str:
    """The id of this node, in hexadecimal."""
    return str(_session.address_info()["node_id"])


def log_once(key: str) -> bool:
    """Whether this is the first call with this key in this process.

    Example:
        >>> from shoal.util import log_once
        >>> log_once("a message"), log_once("a message")
        (True, False)
    """
    with _lock:
        first = key not in _logged
        _logged.add(key)
        return first
