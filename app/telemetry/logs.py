"""Logs as JSON lines on stderr, those of the libraries too. They hold no content: an exception is logged by its type
and its place, not by its message, which may quote what people have said, or a statement's parameters."""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

import orjson
import structlog

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_messages,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def described(error: BaseException) -> list[dict[str, Any]]:
    """An exception and those that led to it, the first cause last: types, SQLSTATEs and places."""
    found: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(found) < 10:
        frames = traceback.extract_tb(current.__traceback__)
        shown: dict[str, Any] = {"type": f"{type(current).__module__}.{type(current).__qualname__}"}
        for name in ("sqlstate", "constraint_name"):
            if isinstance(getattr(current, name, None), str):
                shown[name] = getattr(current, name)
        shown["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-20:]]
        found.append(shown)
        current = current.__cause__ or current.__context__
    return found


def _without_messages(logger: Any, method: str, event: Any) -> Any:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = described(error)
    return event


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        shown: dict[str, Any] = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[1] is not None:
            shown["exception"] = described(record.exc_info[1])
        return orjson.dumps(shown).decode()
