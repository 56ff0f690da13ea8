"""One file from the hub, going on after the bytes that are here: within a call, and in the next one after a kill.

The hub's own client writes each download to a file of a random name and removes it on failure, so a download of its
own could never be gone on with. Its ``http_get`` does take a beginning; but it is no documented part of it, keeps up to
ten megabytes back before it writes them, which a cut then loses, and gives up where a server is busy. What is asked
here goes through its session all the same: its login, proxies and certificates hold.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import IO, Any

from safe_retrieval.models.progress import Update

_TRIES = 5
"""Tries in a row that may fail without a single new byte."""

_PAUSE = 1.0
"""Seconds before the second try; each further pause is twice as long."""

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of a server that is busy or restarting."""


def transport() -> Any:
    """The library whose errors the hub's session raises: ``httpx``, and ``httpx2`` in later releases of the client."""
    from huggingface_hub import get_session

    return importlib.import_module(type(get_session()).__module__.partition(".")[0])


def download(url: str, partial: Path, size: int, update: Update) -> None:
    """Bring ``partial`` to ``size`` bytes, asking ``url`` only for those that are missing.

    A broken connection is taken up again as long as bytes come. Whether they are the right ones is for the caller to
    say: a file on the server that is shorter or longer leaves ``partial`` of another size.

    Args:
        url: the address; redirections are followed, and the login goes to no other host.
        partial: what came so far, kept whatever happens.
        size: bytes of the whole file.
        update: called with the bytes that are here.

    Raises:
        HfHubHTTPError: the hub refuses; a class of ``huggingface_hub.errors``.
        HTTPError: the connection broke; a class of :func:`transport`.
        OSError: the disk is full (``ENOSPC``).
    """
    from huggingface_hub.errors import HfHubHTTPError

    failed = 0
    while True:
        with partial.open("ab") as output:
            before = output.tell()
            try:
                return _append(url, output, size, update)
            except (HfHubHTTPError, transport().HTTPError) as error:
                failed = 1 if output.tell() > before else failed + 1
                if failed == _TRIES or not _may_pass(error):
                    raise
        time.sleep(_PAUSE * 2 ** (failed - 1))


def _may_pass(error: Any) -> bool:
    """Whether trying again may help: the connection broke, or the server is busy."""
    library = transport()
    if isinstance(error, (library.NetworkError, library.TimeoutException, library.RemoteProtocolError)):
        return True
    return getattr(getattr(error, "response", None), "status_code", None) in _PASSING


def _append(url: str, output: IO[bytes], size: int, update: Update) -> None:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    if output.tell() > size:
        _empty(output)  # not a beginning of this file
    update(done := output.tell())
    if done == size:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range of compressed bytes is no range of these
    if done:
        headers["Range"] = f"bytes={done}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the server sends the file from its start, whatever was asked
            done = _empty(output)
        for block in response.iter_bytes():
            output.write(block)
            done += len(block)
            update(done)
            if done > size:
                return  # more than there should be, perhaps without end


def _empty(output: IO[bytes]) -> int:
    output.seek(0)
    return output.truncate()
