"""One HTTP endpoint that answers in JSON, asked politely: a rate limit, retries, growing waits, timeouts, a size limit.

A fault of the network, a 429, a 5xx and an answer that is no JSON are tried again; other refusals are not, since they
would come again. Redirects are not followed, so that a key goes to the host it was given for and nowhere else. No
message and no report holds a key: what is in the environment is filled in as the request leaves.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from safe_retrieval.errors import AuditError, ConfigError

if TYPE_CHECKING:
    import httpx

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_LARGEST = 16 * 1024**2
_LONGEST_WAIT = 60.0

_Read = TypeVar("_Read")


class EndpointSettings(BaseModel):
    """Where an endpoint is and how it is asked.

    Attributes:
        url: of the endpoint; ``${NAME}`` is filled in from the environment.
        headers: sent with each request, filled in the same way, for example ``Authorization: Bearer ${SEARCH_TOKEN}``.
        timeout: seconds that one try may take.
        retries: further tries after a fault.
        backoff: seconds before the second try; doubled before each further one.
        rate: most requests a second; ``None`` sets no limit.
        concurrency: requests under way at the same time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1)
    headers: dict[str, str] = {}
    timeout: float = Field(default=30.0, gt=0)
    retries: int = Field(default=4, ge=0)
    backoff: float = Field(default=0.5, ge=0)
    rate: float | None = Field(default=None, gt=0)
    concurrency: int = Field(default=1, ge=1, le=64)


def public_settings(settings: EndpointSettings) -> dict[str, Any]:
    """Settings as a report may hold them, those of an endpoint within them likewise.

    The address stands without user, password and parameters, headers by name alone; variables of the environment stand
    as they were written, ``${NAME}``.
    """
    content = settings.model_dump(mode="json", exclude={"url", "headers"})
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, EndpointSettings):
            content[name] = public_settings(value)
    address = {"url": _shown(settings.url), "url_sha256": _url_sha256(settings)}
    return {**address, "headers": sorted(settings.headers), **content}


def _shown(url: str) -> str:
    """An address without user, password, parameters and fragment; given as configured, no ``${NAME}`` is filled in."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _url_sha256(settings: EndpointSettings) -> str:
    return hashlib.sha256(settings.url.encode("utf-8", "surrogatepass")).hexdigest()


class NoAnswerError(ValueError):
    """What came is no answer; asked again, the endpoint may give one. Never leaves this package's HTTP part."""


class Reply(NamedTuple, Generic[_Read]):
    """What was read out of an answer, and how long the try that gave it took."""

    value: _Read
    seconds: float


class Endpoint:
    """A client of one endpoint; may be used from several threads.

    Args:
        settings: see there.
        name: for messages.

    Raises:
        ConfigError: a variable of the environment is not set, or what it gives is no address or no header.
    """

    def __init__(self, settings: EndpointSettings, name: str) -> None:
        import httpx

        self._settings, self._name = settings, name
        self._url = filled(settings.url)
        try:
            httpx.URL(self._url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{name}: {settings.url} is no address: {error}") from error
        self._client = httpx.Client(
            headers={key: _header(key, value) for key, value in settings.headers.items()},
            timeout=settings.timeout,
            follow_redirects=False,
        )
        self._pace = _Pace(settings.rate)

    @property
    def shown(self) -> str:
        """The address as it was configured, without user, password and parameters."""
        return _shown(self._settings.url)

    @property
    def sha256(self) -> str:
        """Hex digest of the address as it was configured: parameters count, and no value of the environment does."""
        return _url_sha256(self._settings)

    def ask(
        self,
        read: Callable[[Any], _Read],
        *,
        method: str = "POST",
        json: Any = None,
        params: Mapping[str, Any] | None = None,
    ) -> Reply[_Read]:
        """Send one request until it is answered.

        Args:
            read: takes the parsed JSON; raises :class:`NoAnswerError` where it is no answer.
            method: of HTTP.
            json: body.
            params: of the address, besides those that it has.

        Raises:
            AuditError: it could not be had; the message says what came last.
        """
        fault = ""
        for attempt in range(self._settings.retries + 1):
            if attempt:
                time.sleep(min(self._settings.backoff * 2 ** (attempt - 1), _LONGEST_WAIT))
            self._pace.wait()
            start = time.perf_counter()
            try:
                return Reply(read(self._sent(method, json, params)), time.perf_counter() - start)
            except NoAnswerError as error:
                fault = str(error)
        tries = self._settings.retries + 1
        raise AuditError(
            f"{self._name} ({self.shown}) gave no answer in {tries} {'try' if tries == 1 else 'tries'}; the last: "
            f"{fault}. Answers so far are kept: start again to go on, with a longer timeout or more retries"
        )

    def _sent(self, method: str, json: Any, params: Mapping[str, Any] | None) -> Any:
        """The answer's JSON."""
        import httpx

        try:
            url = httpx.URL(self._url)
            if params:  # merged here: given apart, httpx would put them in the place of the address's own
                url = url.copy_merge_params(params)
            with self._client.stream(method, url, json=json) as response:
                content = self._read(response, time.monotonic() + self._settings.timeout)
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"nothing within {self._settings.timeout:g} s") from error
        except httpx.RequestError as error:  # of the network, and a body that is not compressed as it says
            raise NoAnswerError(f"{type(error).__name__}: {error}") from error
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            self._pace.pause(response.headers.get("Retry-After"))
            raise NoAnswerError(f"HTTP {status}")
        if not response.is_success:
            raise AuditError(
                f"{self._name} ({self.shown}) answered HTTP {status}, which would come again; expected success. Mend "
                "address, headers or body in the configuration"
            )
        return _parsed(content)

    def _read(self, response: httpx.Response, end: float) -> bytes:
        content = bytearray()
        for block in response.iter_bytes():
            content += block
            if time.monotonic() > end:  # httpx bounds each block, and there may be no end of them
                raise NoAnswerError(f"no whole answer within {self._settings.timeout:g} s")
            if len(content) > _LARGEST:
                raise AuditError(f"{self._name} ({self.shown}) sent more than {_LARGEST:,} bytes; ask it for less text")
        return bytes(content)


def _parsed(content: bytes) -> Any:
    import json

    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoAnswerError(f"expected JSON, {len(content)} bytes came that are none") from error


def filled(text: str) -> str:
    """``${NAME}`` replaced by the environment's value.

    Raises:
        ConfigError: it is not set; the message names it.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"expected the environment variable {match[1]}, which the configuration names; set it")
        return found

    return _VARIABLE.sub(value, text)


def _header(name: str, value: str) -> str:
    """A header's value. One that cannot be sent is refused here: HTTP's own message would quote it, key and all."""
    text = filled(value).strip()
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"expected printable ASCII on one line as the header {name}; look at what is filled into it")
    return text


class _Pace:
    """Spreads requests in time."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until the next request may leave."""
        with self._lock:
            now = time.monotonic()
            at = max(self._next, now)
            self._next = at + self._gap
        time.sleep(max(at - now, 0.0))

    def pause(self, seconds: str | None) -> None:
        """Until the endpoint wants to be asked again, where it says so in seconds."""
        if seconds and seconds.isdecimal():
            with self._lock:
                self._next = max(self._next, time.monotonic() + min(float(seconds), _LONGEST_WAIT))
