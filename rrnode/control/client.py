"""Asking a running node: the control API from the side of the command line, synchronous, over its Unix socket.

Light on purpose (no libp2p, no web framework): a command must feel immediate. Answers stay plain JSON documents as
`rrnode.control.models` describes them.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from rrnode.datadir import socket_path
from rrnode.errors import UserError

Json = dict[str, Any]

CONNECT_WITHIN = 5.0  # seconds
ANSWER_WITHIN = 120.0  # seconds; opening a channel asks a peer and builds a transaction


class NodeAway(UserError):
    """No node answers at the socket."""


class ControlClient:
    """The control API of the node that runs in one data directory. A context manager; raises UserError."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = socket_path(data_dir)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._path)),
            base_url="http://rrnode/v1",
            timeout=httpx.Timeout(ANSWER_WITHIN, connect=CONNECT_WITHIN),
            trust_env=False,
        )

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """GET under `/v1`."""
        return self._call("GET", path)

    def post(self, path: str, order: Mapping[str, Any] | None = None) -> Any:
        """POST under `/v1`; values that are None are left out."""
        return self._call("POST", path, order)

    def delete(self, path: str) -> Any:
        """DELETE under `/v1`."""
        return self._call("DELETE", path)

    def page(self, path: str) -> str:
        """A text outside `/v1`: `/docs` or `/openapi.json`."""
        with self._explained():
            return self._http.get(f"http://rrnode{path}").text

    @contextmanager
    def events(self, after: int | None = None) -> Iterator[Iterator[Json]]:
        """Follow the node's events; the subscription stands when the block is entered. Ends with the node."""
        with self._lines("/events", {} if after is None else {"after": after}) as lines:
            yield lines

    @contextmanager
    def frames(self, **wanted: Any) -> Iterator[Iterator[Json]]:
        """See frames as they pass; takes the fields of `models.FrameFilter`, `protocols` as `protocol`. Ends with the node."""
        with self._lines("/frames", wanted) as lines:
            yield lines

    @contextmanager
    def _lines(self, path: str, query: Mapping[str, Any]) -> Iterator[Iterator[Json]]:
        with self._explained():
            timeout = httpx.Timeout(None, connect=CONNECT_WITHIN)
            with self._http.stream("GET", path, params=query, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                yield (json.loads(line) for line in response.iter_lines() if line)

    def _call(self, verb: str, path: str, order: Mapping[str, Any] | None = None) -> Any:
        body = None if order is None else {key: value for key, value in order.items() if value is not None}
        with self._explained():
            response = self._http.request(verb, path, json=body)
        if not response.is_success:
            raise _refusal(response)
        try:
            return response.json()
        except ValueError:
            raise UserError(f"the node's answer to {verb} {path} cannot be read", "is it the same version?") from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a socket says into what its owner can do."""
        start = f"start it with: rrnode --datadir {self._data_dir} start"
        try:
            yield
        except httpx.TimeoutException:
            raise NodeAway(
                f"the node in {self._data_dir} did not answer in time", "it may be busy: try again, or look at its log"
            ) from None
        except httpx.ConnectError:
            raise self._unconnected(start) from None
        except httpx.TransportError as error:
            raise NodeAway(f"the node in {self._data_dir} went away in the middle ({error})", start) from None

    def _unconnected(self, start: str) -> UserError:
        if not self._data_dir.exists():
            return NodeAway(
                f"there is no node in {self._data_dir}", f"make one with: rrnode --datadir {self._data_dir} init"
            )
        try:
            owner = self._path.stat().st_uid
        except PermissionError:
            return NodeAway(
                f"you may not use the node in {self._data_dir}", "run this command as the user that runs it"
            )
        except OSError:
            return NodeAway(f"the node in {self._data_dir} is not running", start)
        if owner != os.geteuid() and os.geteuid() != 0:
            return NodeAway(
                f"the node in {self._data_dir} belongs to another user", "run this command as the user that runs it"
            )
        return NodeAway(f"the node in {self._data_dir} is not running", start)


def _refusal(response: httpx.Response) -> UserError:
    try:
        body = response.json()
        return UserError(str(body["error"]), str(body.get("try", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return UserError(f"the node answered {response.status_code} without a reason", "look at its log")
