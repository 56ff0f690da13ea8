"""Encodings kept on disk as they come, so that a cut audit goes on where it stopped and a second one is fast.

Texts are encoded in chunks. A chunk is two files named by the hash of its texts and of the encoder's identity: the
vectors (``.npy``) and a JSON with the refusal probabilities, the seconds it took and the hash of the vectors. The JSON
is written last, so a chunk without one does not exist. Neither file holds a text.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import AuditError
from safe_retrieval.types import FloatMatrix, QueryEncoding

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the cache's files; a new one makes every key anew, so older files are left alone."""

CHUNK = 64
"""Texts a chunk: at a few queries a second, a cut costs less than a minute."""

Advance: TypeAlias = Callable[[int], None]
Progress: TypeAlias = Callable[[int, str], AbstractContextManager[Advance]]
"""Opens a display of a total and a description; yields a function that moves it on."""


class Encoded(NamedTuple):
    """Encodings of some texts and what they cost when they were made, be that now or in an earlier run.

    Attributes:
        encoding: vectors and verdicts.
        seconds: they took.
        tokens: that were generated for them; ``None`` where nothing is generated, or a chunk has no count.
    """

    encoding: QueryEncoding
    seconds: float
    tokens: int | None = None


@runtime_checkable
class Generating(Protocol):
    """An encoder that writes text on the way, as HyDE does."""

    @property
    def generated_tokens(self) -> int:
        """Tokens written so far, over all calls."""


class EncodingCache:
    """Encode texts through the cache in ``folder``.

    Args:
        folder: where chunks lie; made when needed.
        progress: display for chunks that have to be made; the default is the bar that all encoders share.
    """

    def __init__(self, folder: Path, *, progress: Progress = progress_bar) -> None:
        self._folder = folder
        self._progress = progress

    def encode(
        self,
        label: str,
        identity: str,
        encode: Callable[[Sequence[str]], QueryEncoding],
        texts: Sequence[str],
        *,
        generated: Callable[[], int] | None = None,
    ) -> Encoded:
        """Encode ``texts``, taking from the cache what is there.

        Args:
            label: what is encoded, for the progress display.
            identity: everything that decides the vectors besides the texts: model, adapter, policy, precision.
            encode: texts to encodings; called with one chunk at a time, and not at all where all chunks are there.
            texts: n texts.
            generated: counts the tokens that the encoder has generated so far, where it generates any.

        Returns:
            (n, d) vectors and n refusal probabilities where the encoder gives them, in input order.

        Raises:
            AuditError: there is no text, or the encoder returned another number of rows than it was given texts.
        """
        if not texts:
            raise AuditError(f"there is nothing to encode ({label}); an audit needs at least one text")
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        paths = [self._folder / _key(identity, chunk) for chunk in chunks]
        found = {position: kept for position, path in enumerate(paths) if (kept := _read(path)) is not None}
        missing = [position for position in range(len(chunks)) if position not in found]
        if missing:
            found |= self._make(
                label, encode, {position: (paths[position], chunks[position]) for position in missing}, generated
            )
        return _join([found[position] for position in range(len(chunks))])

    def _make(
        self,
        label: str,
        encode: Callable[[Sequence[str]], QueryEncoding],
        work: dict[int, tuple[Path, Sequence[str]]],
        generated: Callable[[], int] | None,
    ) -> dict[int, Encoded]:
        made = {}
        total = sum(len(chunk) for _, chunk in work.values())
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._progress(total, f"Encoding {label}") as advance:
            for position, (path, chunk) in work.items():
                before = generated() if generated else 0
                start = time.perf_counter()
                encoding = encode(chunk)
                seconds = time.perf_counter() - start
                encoded = Encoded(encoding, seconds, generated() - before if generated else None)
                _check(label, encoding, len(chunk))
                _write(path, encoded)
                made[position] = encoded
                advance(len(chunk))
        return made


def _key(identity: str, texts: Sequence[str]) -> str:
    # JSON in ASCII: boundaries between texts are unambiguous, and lone surrogates have a byte form
    return hashlib.sha256(json.dumps([FORMAT, identity, list(texts)]).encode("ascii")).hexdigest()


def _check(label: str, encoding: QueryEncoding, n: int) -> None:
    rows = len(encoding.vectors)
    verdicts = n if encoding.refusal is None else len(encoding.refusal)
    if rows != n or verdicts != n:
        raise AuditError(f"the encoder returned {rows} vectors and {verdicts} verdicts for {n} texts ({label})")


def _write(path: Path, encoded: Encoded) -> None:
    buffer = io.BytesIO()
    np.save(buffer, encoded.encoding.vectors.astype(np.float32, copy=False), allow_pickle=False)
    refusal = encoded.encoding.refusal
    record = {
        "format": FORMAT,
        "seconds": encoded.seconds,
        "tokens": encoded.tokens,
        "refusal": None if refusal is None else [float(probability) for probability in refusal],
        "vectors_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    _replace(path.with_suffix(".npy"), buffer.getvalue())
    _replace(path.with_suffix(".json"), json.dumps(record).encode())


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


def _read(path: Path) -> Encoded | None:
    """The chunk, or ``None`` where it is not there or is damaged (which is logged: it will be made again)."""
    record_path = path.with_suffix(".json")
    if not record_path.is_file():
        return None
    try:
        return _parse(json.loads(record_path.read_bytes()), path.with_suffix(".npy").read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged and will be made again: %s", record_path, error)
        return None


def _parse(record: dict[str, Any], content: bytes) -> Encoded:
    if hashlib.sha256(content).hexdigest() != record["vectors_sha256"]:
        raise ValueError("its vectors are not the ones that were written")
    vectors: FloatMatrix = np.load(io.BytesIO(content), allow_pickle=False)
    refusal = None if record["refusal"] is None else np.asarray(record["refusal"], dtype=np.float32)
    return Encoded(QueryEncoding(vectors, refusal), float(record["seconds"]), record.get("tokens"))


def _join(parts: Sequence[Encoded]) -> Encoded:
    refusals = [part.encoding.refusal for part in parts if part.encoding.refusal is not None]
    encoding = QueryEncoding(
        np.concatenate([part.encoding.vectors for part in parts]),
        np.concatenate(refusals) if len(refusals) == len(parts) else None,
    )
    counts = [part.tokens for part in parts if part.tokens is not None]
    return Encoded(
        encoding, math.fsum(part.seconds for part in parts), sum(counts) if len(counts) == len(parts) else None
    )
