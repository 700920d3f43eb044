"""The commented configuration file that `rrnode init` writes: every setting, what it means, its default (DESIGN 3)."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rrnode.config.settings import SECTIONS, default_of

_HEAD = """\
Configuration of an rrnode node. A line that begins with # shows a setting and its default; remove the # to change it.
Environment variables win over this file (RRNODE_FEES_PPM=50 sets ppm in [fees]), flags of `rrnode start` over both
(--set fees.ppm=50). Changes count from the next start.
"""
_WIDTH = 118


def toml_value(value: Any) -> str:
    """A value of one of the setting types as TOML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(part) for part in value) + "]"
    return '"' + "".join(_escaped(character) for character in str(value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return f"\\u{ord(character):04x}" if ord(character) < 32 or ord(character) == 127 else character


def _comment(text: str) -> list[str]:
    return ["# " + line for line in textwrap.wrap(" ".join(text.split()), _WIDTH)]


def render(network: str, chosen: Mapping[tuple[str, str], Any]) -> str:
    """The whole file for a node on `network`; what is `chosen` (section, key) stands there as a setting, the rest as
    comments with the defaults of that network."""
    lines = _comment(_HEAD)
    for section, kind in SECTIONS.items():
        lines += ["", f"[{section}]", *_comment(kind.__doc__ or "")]
        for key, spec in kind.__dataclass_fields__.items():
            meta = spec.metadata
            doc = meta["doc"] + (f" ({' | '.join(meta['choices'])})" if meta["choices"] else "")
            value = chosen.get((section, key), default_of(section, key, network))
            mark = "" if (section, key) in chosen else "#"
            doc = doc if doc.split(maxsplit=1)[0].endswith(":") else doc[0].upper() + doc[1:]
            lines += ["", *_comment(doc), f"{mark}{key} = {toml_value(value)}"]
    return "\n".join(lines) + "\n"
