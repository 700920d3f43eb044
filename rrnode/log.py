"""Structured logs: one line per thing that needs attention, for people or as JSON; secrets never (DESIGN 3, CONVENTIONS).

Everything goes through one handler, the standard library's loggers of our dependencies too. Quiet by default: rrnode
says nothing about things that go well.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from rrnode.services.limits import printable

_SECRET_KEYS = re.compile(
    r"(seed|words|mnemonic|secret|preimage|password|passphrase|cookie|private|privkey|xprv|tprv|authorization)",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?:[xt]prv[1-9A-HJ-NP-Za-km-z]{20,})"  # extended private keys
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password in a URL
    r"|(?<=[Aa]uthorization: )\S+ \S+"
)
_HIDDEN = "(hidden)"
_TRACES = ("exception", "stack")  # structlog's keys for texts of several lines
# Dependencies whose informational lines are of no use to the owner of a node.
_CHATTY = ("libp2p", "multiaddr", "hypercorn", "httpx", "httpcore", "alembic", "sqlalchemy", "async_service", "asyncio")


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: values under secret names vanish, and what looks like a secret inside texts."""
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = _HIDDEN
        elif isinstance(value, bytes | bytearray):
            event[key] = bytes(value).hex()
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub(_HIDDEN, value)
    return event


def drive_no_terminal(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: texts may be a stranger's, so control characters become dots; a trace keeps its lines."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = "\n".join(map(printable, value.split("\n"))) if key in _TRACES else printable(value)
    return event


def setup(level: str = "warning", form: str = "auto", stream: TextIO | None = None) -> None:
    """Route structlog and the standard library's logging to one stream.

    Args:
        level: debug, info, warning or error. Below `info`, dependencies still say only what they call a warning,
            unless the level is debug.
        form: `console`, `json`, or `auto` (console when the stream is a terminal).
        stream: standard error when None.
    """
    stream = stream if stream is not None else sys.stderr
    on_terminal = stream.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = form == "json" or (form == "auto" and not on_terminal)
    render: list[Any] = (
        [structlog.processors.format_exc_info, hide_secrets, structlog.processors.JSONRenderer(default=str)]
        if as_json
        else [
            structlog.processors.format_exc_info,
            hide_secrets,
            drive_no_terminal,
            structlog.dev.ConsoleRenderer(colors=on_terminal),
        ]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(number if level == "debug" else max(number, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one part, e.g. `log.get("channels")`; lines are events with values, not sentences built by hand."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"rrnode.{name}")
    return logger
