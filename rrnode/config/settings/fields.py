"""One setting: its type, default, explanation and bounds in a single definition; and the error for one that cannot be used."""

import math
from dataclasses import field
from typing import Any

from rrnode.errors import UserError


class ConfigError(UserError):
    """A setting that cannot be used. The message names its source, key, what came and what was wanted."""


def setting(
    default: Any,
    doc: str,
    *,
    low: float = 0,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """A dataclass field with its explanation (shown in the file) and bounds (numbers) or choices (text).

    A `secret` one is in no message and no `repr`.
    """
    meta = {"doc": doc, "low": low, "high": high, "choices": choices}
    return field(default=default, repr=not secret, metadata=meta)
