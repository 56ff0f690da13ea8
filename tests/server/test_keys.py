from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from safe_retrieval.errors import ConfigError, InputError
from safe_retrieval.server.keys import KeyRing, add_key
from tests.server.support import KEY


def test_keys_are_made_and_only_their_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    first, second = add_key(path, "alice"), add_key(path, "bob@work")
    content = path.read_text()
    assert first not in content
    assert second not in content
    assert path.stat().st_mode & 0o077 == 0
    ring = KeyRing.read(path)
    assert (ring.identify(first), ring.identify(second)) == ("alice", "bob@work")
    assert ring.identify(first[:-1]) is None
    assert ring.identify("") is None


def test_a_file_that_somebody_wrote(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"# ours\n\nsha256:{hashlib.sha256(KEY.encode()).hexdigest()}  # no label, no newline")
    added = add_key(path, "later")
    ring = KeyRing.read(path)
    assert (ring.identify(KEY), ring.identify(added), len(ring)) == ("key", "later", 2)


@pytest.mark.parametrize("content", [KEY, "sha256:abc", f"sha256:{'A' * 64}", "md5:1 label", f"sha256:{'a' * 64} a b"])
def test_a_broken_line_is_named_and_not_repeated(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"# ours\n{content}\n")
    with pytest.raises(ConfigError, match="line 2") as caught:
        KeyRing.read(path)
    assert content not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff"])
def test_a_file_without_keys_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"keys\.txt"):
        KeyRing.read(path)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: calls.append((len(a), len(b))) or compare(a, b))
    ring = KeyRing.of(KEY) + KeyRing.of(KEY + "2", "second")
    assert ring.identify(KEY) == "key"
    assert calls == [(32, 32), (32, 32)]  # whatever was presented, digests of one length, and no early end


def test_what_cannot_be_a_key_or_a_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 20"):
        KeyRing.of("short")
    for key in (f"{KEY}\n", f" {KEY}", f"{KEY}\N{LATIN SMALL LETTER E WITH ACUTE}"):
        with pytest.raises(InputError, match="visible ASCII") as caught:
            KeyRing.of(key)
        assert KEY not in str(caught.value)
    with pytest.raises(InputError, match="label"):
        add_key(tmp_path / "keys.txt", "two words")
    with pytest.raises(InputError, match="cannot be written"):
        add_key(tmp_path / "missing" / "keys.txt")
