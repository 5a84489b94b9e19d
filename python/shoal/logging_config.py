"""How log records look in the driver and in its workers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["LoggingConfig"]

VARIABLE = "SHOAL_LOGGING_CONFIG"


@dataclass
class LoggingConfig:
    """How the root logger of the driver and of every worker writes.

    Attributes:
        encoding: ``"TEXT"`` or ``"JSON"``, one record a line.
        log_level: Level below which records are dropped, such as ``"INFO"``.
        additional_log_standard_attrs: Further attributes of `logging.LogRecord` to write.

    Example:
        >>> import shoal
        >>> shoal.LoggingConfig(encoding="JSON", log_level="DEBUG").encoding
        'JSON'
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in ("TEXT", "JSON"):
            raise ValueError(f"encoding is 'TEXT' or 'JSON', not {self.encoding!r}")
        if not isinstance(self.additional_log_standard_attrs, list):
            raise TypeError("additional_log_standard_attrs is a list of names")

    def apply(self) -> None:
        """Set up the root logger of this process."""
        import logging

        handler = logging.StreamHandler()
        handler.setFormatter(_formatter(self))
        root = logging.getLogger()
        root.handlers = [handler]
        root.setLevel(self.log_level.upper())

    def to_variable(self) -> tuple[str, str]:
        """The environment variable that carries this to workers."""
        return VARIABLE, json.dumps(self.__dict__)


def apply_from_environment() -> None:
    """Set up logging in a worker as the driver asked for it."""
    text = os.environ.get(VARIABLE)
    if text:
        LoggingConfig(**json.loads(text)).apply()


def _formatter(config: LoggingConfig) -> logging.Formatter:
    import logging

    from shoal.runtime_context import get_runtime_context

    class ContextFormatter(logging.Formatter):
        """Adds what runs here to every record."""

        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            context = get_runtime_context().get()
            ids = {name: value for name, value in context.items() if value is not None}
            more = {name: getattr(record, name) for name in config.additional_log_standard_attrs}
            if config.encoding == "TEXT":
                facts = " ".join(f"{name}={value}" for name, value in {**ids, **more}.items())
                return f"{text} -- {facts}" if facts else text
            fields = {
                "asctime": self.formatTime(record),
                "levelname": record.levelname,
                "message": record.getMessage(),
                "filename": record.filename if hasattr(record, "filename") else os.path.basename(record.pathname),
                "lineno": record.lineno,
                "timestamp_ns": int(record.created * 1e9),
                **ids,
                **more,
            }
            if record.exc_info:
                fields["exc_text"] = self.formatException(record.exc_info)
            return json.dumps(fields, default=str)

    return ContextFormatter("%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s")
