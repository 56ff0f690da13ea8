from __future__ import annotations

from pathlib import Path

import numpy as np

from safe_retrieval.index.shards import ShardStore, shard_key
from tests.support.encoders import HashEncoder

VECTORS = np.eye(3, dtype=np.float32)


def test_key_depends_on_encoder_texts_and_their_borders() -> None:
    encoder = HashEncoder()
    variants = [
        shard_key(encoder, ["a", "bc"]),
        shard_key(encoder, ["ab", "c"]),
        shard_key(encoder, ["bc", "a"]),
        shard_key(encoder, ["a", "bc", ""]),
        shard_key(HashEncoder("another"), ["a", "bc"]),
        shard_key(HashEncoder(space="another"), ["a", "bc"]),
        shard_key(HashEncoder(dimension=8, space="hash:32"), ["a", "bc"]),
        shard_key(encoder, ["\ud800"]),
    ]
    assert len(set(variants)) == len(variants)
    assert shard_key(HashEncoder(), ["a", "bc"]) == variants[0]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "shards")
    store.save(0, "key", VECTORS)
    loaded = ShardStore(tmp_path / "shards").load(0, "key")
    assert loaded is not None
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, VECTORS)
    store.save(0, "new key", VECTORS[:1])
    assert store.load(0, "key") is None
    assert np.array_equal(store.load(0, "new key"), VECTORS[:1])  # type: ignore[arg-type]


def test_a_shard_that_is_not_whole_is_not_there(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    assert store.load(0, "key") is None
    store.save(0, "key", VECTORS)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for data in (b"", whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], whole[:-1] + bytes([whole[-1] ^ 1])):
            path.write_bytes(data)
            assert store.load(0, "key") is None
        path.unlink()
        assert store.load(0, "key") is None
        path.write_bytes(whole)
    assert store.load(0, "key") is not None
