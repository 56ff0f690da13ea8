from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from safe_retrieval.audit.encodings import CHUNK, EncodingCache, Generating
from safe_retrieval.errors import AuditError
from safe_retrieval.types import QueryEncoding
from tests.audit.fakes import RecordingEncoder

TEXTS = [f"query number {i}" for i in range(CHUNK * 2 + 5)]


def test_order_vectors_and_verdicts_are_the_encoders_own(tmp_path: Path) -> None:
    encoder = RecordingEncoder(refused=["request"])
    texts = [*TEXTS, "a request"]
    encoded = EncodingCache(tmp_path).encode("fake", "id", encoder.encode, texts)
    expected = encoder.encode(texts)
    np.testing.assert_array_equal(encoded.encoding.vectors, expected.vectors)
    assert encoded.encoding.refusal is not None
    np.testing.assert_array_equal(encoded.encoding.refusal, expected.refusal)
    assert encoded.seconds > 0


def test_a_second_call_encodes_nothing_and_remembers_the_time(tmp_path: Path) -> None:
    encoder = RecordingEncoder(refused=["request"])
    first = EncodingCache(tmp_path).encode("fake", "id", encoder.encode, TEXTS)
    encoder.encoded.clear()
    second = EncodingCache(tmp_path).encode("fake", "id", encoder.encode, TEXTS)
    assert encoder.encoded == []
    assert second.seconds == pytest.approx(first.seconds)
    np.testing.assert_array_equal(first.encoding.vectors, second.encoding.vectors)
    np.testing.assert_array_equal(first.encoding.refusal, second.encoding.refusal)


def test_another_identity_is_another_encoding(tmp_path: Path) -> None:
    encoder = RecordingEncoder()
    EncodingCache(tmp_path).encode("fake", "id", encoder.encode, TEXTS)
    EncodingCache(tmp_path).encode("fake", "other", encoder.encode, TEXTS)
    assert len(encoder.encoded) == 2 * len(TEXTS)


class _CutError(Exception):
    pass


def test_a_cut_run_goes_on_at_the_chunk(tmp_path: Path) -> None:
    encoder = RecordingEncoder()

    def fails_in_the_second_chunk(texts: Sequence[str]) -> QueryEncoding:
        if encoder.encoded:
            raise _CutError
        return encoder.encode(texts)

    with pytest.raises(_CutError):
        EncodingCache(tmp_path).encode("fake", "id", fails_in_the_second_chunk, TEXTS)
    assert encoder.encoded == TEXTS[:CHUNK]
    encoder.encoded.clear()
    resumed = EncodingCache(tmp_path).encode("fake", "id", encoder.encode, TEXTS)
    assert encoder.encoded == TEXTS[CHUNK:]
    np.testing.assert_array_equal(resumed.encoding.vectors, encoder.encode(TEXTS).vectors)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"\0" + content[1:]])
def test_a_damaged_chunk_is_named_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    encoder = RecordingEncoder(refused=["request"])
    cache = EncodingCache(tmp_path)
    first = cache.encode("fake", "id", encoder.encode, TEXTS)
    path = sorted(tmp_path.glob(f"*{suffix}"))[0]
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        second = cache.encode("fake", "id", encoder.encode, TEXTS)
    assert "is damaged and will be made again" in caplog.text
    assert path.stem in caplog.text
    np.testing.assert_array_equal(first.encoding.vectors, second.encoding.vectors)


def test_vectors_whose_record_was_never_written_do_not_count(tmp_path: Path) -> None:
    encoder = RecordingEncoder()
    cache = EncodingCache(tmp_path)
    cache.encode("fake", "id", encoder.encode, TEXTS[:3])
    next(tmp_path.glob("*.json")).unlink()
    encoder.encoded.clear()
    cache.encode("fake", "id", encoder.encode, TEXTS[:3])
    assert encoder.encoded == TEXTS[:3]


def test_no_text_is_written(tmp_path: Path) -> None:
    EncodingCache(tmp_path).encode("fake", "id", RecordingEncoder().encode, TEXTS)
    assert not any(b"query number" in path.read_bytes() for path in tmp_path.iterdir())
    record = json.loads(next(tmp_path.glob("*.json")).read_bytes())
    assert set(record) == {"format", "seconds", "tokens", "refusal", "vectors_sha256"}


def test_lone_surrogates_are_texts_too(tmp_path: Path) -> None:
    encoded = EncodingCache(tmp_path).encode(
        "fake", "id", lambda texts: QueryEncoding(np.ones((len(texts), 2), np.float32), None), ["a\ud800"]
    )
    assert encoded.encoding.vectors.shape == (1, 2)


def test_wrong_number_of_rows_raises(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="returned 1 vectors and 3 verdicts for 3 texts"):
        EncodingCache(tmp_path).encode(
            "odd", "id", lambda texts: QueryEncoding(np.ones((1, 2), np.float32), np.zeros(3, np.float32)), TEXTS[:3]
        )


def test_nothing_to_encode_raises(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="nothing to encode"):
        EncodingCache(tmp_path).encode("fake", "id", RecordingEncoder().encode, [])


def test_progress_counts_only_what_is_made(tmp_path: Path) -> None:
    seen: list[int] = []

    @contextmanager
    def watch(total: int, description: str) -> Iterator[Callable[[int], None]]:
        seen.append(total)
        yield seen.append

    EncodingCache(tmp_path).encode("fake", "id", RecordingEncoder().encode, TEXTS[:CHUNK])
    EncodingCache(tmp_path, progress=watch).encode("fake", "id", RecordingEncoder().encode, TEXTS)
    assert seen == [CHUNK + 5, CHUNK, 5]


def test_generated_tokens_are_counted_by_chunk_and_kept(tmp_path: Path) -> None:
    class Writing(RecordingEncoder):
        generated_tokens = 0

        def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
            self.generated_tokens += 3 * len(texts)
            return super().encode(texts)

    encoder = Writing()
    assert isinstance(encoder, Generating)
    cache, texts = EncodingCache(tmp_path), [f"text {i}" for i in range(CHUNK + 6)]
    made = cache.encode("x", "id", encoder.encode, texts, generated=lambda: encoder.generated_tokens)
    assert made.tokens == 3 * len(texts)
    kept = EncodingCache(tmp_path).encode("x", "id", encoder.encode, texts)
    assert kept.tokens == 3 * len(texts)
    assert EncodingCache(tmp_path).encode("y", "other", encoder.encode, texts[:CHUNK]).tokens is None
