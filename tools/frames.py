"""Recorded frames, version 1: JSON lines, the first `{"format": "rrnode-frames", "version": 1, ...}`, then a frame each.

A frame is as the control API gives it (`rrnode.control.models.Frame`): time, direction, peer, protocol, and the payload in
hex, without the length before it. The first line also says whose frames they are and whether secrets are in them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from protocols.wire.framing import MAX_FRAME
from rrnode.control import models as m
from rrnode.errors import UserError

FORMAT, VERSION = "rrnode-frames", 1
MOST_BYTES = 64 << 20  # of a record, unless told otherwise: some hundred thousand frames
_LONGEST_LINE = 2 * MAX_FRAME + 4096  # bytes; a payload in hex and what is said about it
_WHAT_IT_IS = "a record is made with: python -m tools.sniff --record FILE"


class Recorder:
    """Writes frames to a new file, for its owner only, up to a bound. Each line is written in one piece.

    Args:
        peer_id: whose frames they are.
        secrets: whether secrets are in them.

    Raises:
        UserError: the file is there already, or cannot be made.
    """

    def __init__(self, path: Path, *, peer_id: str, network: str, secrets: bool, most_bytes: int = MOST_BYTES) -> None:
        self.frames = 0
        self.full = False
        self._left = most_bytes
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise UserError(f"{path} is there already", "choose another name, or move it away") from None
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        head = {"format": FORMAT, "version": VERSION, "peer_id": peer_id, "network": network, "secrets": secrets}
        self._write(json.dumps(head))

    def add(self, frame: m.Frame) -> None:
        """Keep a frame, if there is room. Raises OSError."""
        if not self.full and self._write(frame.model_dump_json()):
            self.frames += 1

    def _write(self, line: str) -> bool:
        raw = line.encode() + b"\n"
        if len(raw) > self._left:
            self.full = True
            return False
        self._left -= len(raw)
        while raw:
            raw = raw[os.write(self._file, raw) :]
        return True

    def close(self) -> None:
        """Nothing more will come."""
        os.close(self._file)


def is_record(start: bytes) -> bool:
    """Whether a file that begins so is a record, of whatever version."""
    return start.startswith(b'{"format": "' + FORMAT.encode() + b'"')


def read(path: Path) -> Iterator[m.Frame]:
    """The frames of a record, oldest first; the file is read as far as they are taken.

    Raises:
        UserError: it cannot be read, is no record or one of a later version, or a line of it is damaged.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        _check_head(path, file.readline(_LONGEST_LINE))
        number = 1
        while line := file.readline(_LONGEST_LINE):
            number += 1
            try:
                yield m.Frame.model_validate_json(line)
            except ValidationError:
                torn = " (the record was cut off here)" if not line.endswith(b"\n") and not file.read(1) else ""
                raise UserError(f"{path}: line {number} is no frame{torn}", "what is before it was read") from None


def _check_head(path: Path, line: bytes) -> None:
    if not is_record(line):
        raise UserError(f"{path} is no record of frames", _WHAT_IT_IS)
    try:
        head: Any = json.loads(line)
        version = head["version"]
    except (ValueError, KeyError, RecursionError):
        raise UserError(f"{path} is no record of frames: its first line is damaged", _WHAT_IT_IS) from None
    if version != VERSION:
        raise UserError(
            f"{path} is a record of version {version!r:.20}, this program reads {VERSION}", "use a newer one"
        )
