"""JSON-RPC over HTTP with Bitcoin Core, or what speaks like it: authentication, batches, and errors sorted.

A cookie is read anew when it is refused, so a restarted bitcoind is reached again without a person.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec

from rrnode.errors import ChainUnavailable

Json = Any  # what JSON can hold
MAX_BATCH = 100

_STARTING = -28
_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class RpcFailure(Exception):
    """The other side understood and says no.

    Attributes:
        code: Bitcoin Core's number for the kind of error.
        message: its words.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class RpcClient:
    """One Bitcoin Core, by its RPC address."""

    def __init__(
        self,
        url: str,
        *,
        cookie: Path | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: e.g. `http://127.0.0.1:18443`.
            cookie: file written by bitcoind at its start; else `user` and `password`.
            timeout: seconds for one answer.
        """
        self.url = url
        self._cookie, self._login, self._timeout = cookie, (user or "", password or ""), timeout
        self._client: httpx.AsyncClient | None = None
        self._count = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connections may be opened while inside."""
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=4, keepalive_expiry=20)
        secure = self.url.startswith("https:")
        timeout = httpx.Timeout(self._timeout, connect=5.0)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, verify=secure, trust_env=False) as client:
            self._client = client
            self._auth = self._read_login()
            try:
                yield
            finally:
                self._client = None

    def _read_login(self) -> httpx.BasicAuth | None:
        if self._cookie is None:
            return httpx.BasicAuth(*self._login)
        try:
            user, _, password = self._cookie.read_text().strip().partition(":")
        except (OSError, UnicodeDecodeError):
            return None  # not there while bitcoind is down; said when the request fails
        return httpx.BasicAuth(user, password)

    async def call(self, method: str, *params: Json, again: bool = True, timeout: float | None = None) -> Json:
        """One request.

        Args:
            again: whether a connection that broke is tried once more; not for what must not happen twice.
            timeout: seconds, when the usual ones are too few.

        Raises:
            RpcFailure: it says no.
            ChainUnavailable: it does not answer, or answers nonsense.
        """
        answer = await self._post(self._request(method, params), again=again, timeout=timeout)
        return self._result(answer)

    async def batch(self, calls: Sequence[tuple[str, tuple[Json, ...]]]) -> list[Json | RpcFailure]:
        """Several requests in one body, answered in order; each failure stands in its place.

        Raises:
            ChainUnavailable: it does not answer, or answers nonsense.
        """
        results: list[Json | RpcFailure] = []
        for start in range(0, len(calls), MAX_BATCH):
            requests = [self._request(method, params) for method, params in calls[start : start + MAX_BATCH]]
            answers = await self._post(requests, again=True, timeout=None)
            if not isinstance(answers, list) or len(answers) != len(requests):
                raise self._nonsense("a batch was not answered in full")
            by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
            for request in requests:
                try:
                    results.append(self._result(by_id.get(request["id"])))
                except RpcFailure as failure:
                    results.append(failure)
        return results

    def _request(self, method: str, params: Sequence[Json]) -> dict[str, Json]:
        self._count += 1
        return {"jsonrpc": "1.0", "id": self._count, "method": method, "params": list(params)}

    def _result(self, answer: Json) -> Json:
        if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
            raise self._nonsense("an answer without result")
        error = answer.get("error")
        if error is None:
            return answer.get("result")
        if not isinstance(error, dict) or not isinstance(error.get("code"), int):
            raise self._nonsense("an error without code")
        message = str(error.get("message", ""))
        if error["code"] == _STARTING:
            raise ChainUnavailable(f"Bitcoin Core at {self.url} is still starting: {message}; wait for it")
        raise RpcFailure(error["code"], message)

    async def _post(self, body: Json, *, again: bool, timeout: float | None) -> Json:
        if self._client is None:
            raise ChainUnavailable(f"the chain at {self.url} is used outside of `running`")
        content = _encode(body)
        extra: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        tries = 2 if again else 1
        while True:
            tries -= 1
            if self._auth is None:
                self._auth = self._read_login()
            try:
                response = await self._client.post(
                    self.url, content=content, auth=self._auth or httpx.BasicAuth("", ""), **extra
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise ChainUnavailable(
                    f"no Bitcoin Core answers at {self.url} ({error}); check that it runs and that the address is right"
                ) from error
            except httpx.TimeoutException as error:
                raise ChainUnavailable(f"Bitcoin Core at {self.url} did not answer in time; check its load") from error
            except httpx.HTTPError as error:
                if tries:
                    continue
                raise ChainUnavailable(f"the connection to Bitcoin Core at {self.url} broke ({error})") from error
            except httpx.InvalidURL as error:
                raise ChainUnavailable(f"{self.url} is no address of a Bitcoin Core: {error}") from error
            if response.status_code == 401 and self._cookie is not None:
                fresh = self._read_login()
                # Refused means not carried out, so this is safe even for what must not happen twice.
                if fresh is not None and (self._auth is None or fresh._auth_header != self._auth._auth_header):
                    self._auth = fresh
                    continue
            return self._decode(response)

    def _decode(self, response: httpx.Response) -> Json:
        if response.status_code in (401, 403):
            where = f"the cookie file {self._cookie}" if self._cookie else "user and password"
            self._auth = None
            raise ChainUnavailable(f"Bitcoin Core at {self.url} refused our credentials; check {where}")
        if response.status_code == 503:
            raise ChainUnavailable(
                f"Bitcoin Core at {self.url} is overloaded: {response.text[:100]}; raise -rpcworkqueue"
            )
        try:
            return _decode(response.content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._nonsense(f"HTTP {response.status_code} without JSON") from error

    def _nonsense(self, what: str) -> ChainUnavailable:
        return ChainUnavailable(f"what answers at {self.url} is no Bitcoin Core ({what}); check the address and port")
