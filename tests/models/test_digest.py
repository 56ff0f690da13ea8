from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

import pytest

from safe_retrieval.models.digest import (
    FileDigest,
    digest_of,
    is_model_file,
    model_files,
    sha256_of,
    size_under,
    tree_fingerprint,
)


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of(tmp_path / "f") == FileDigest(3, sha256_of(tmp_path / "f"))


def test_size_while_another_process_moves_things(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "a" / "b" / "f").write_bytes(b"")
            shutil.rmtree(tmp_path / "a")

    other = threading.Thread(target=churn)
    other.start()
    try:
        assert {size_under(tmp_path) for _ in range(300)} == {5}
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("config.json", True),
        ("1_Pooling/config.json", True),
        ("tokenizer.model", True),
        ("vocab.txt", True),
        ("chat_template.jinja", True),
        ("pytorch_model.bin", False),
        ("model.pt", False),
        ("modeling_custom.py", False),
        ("requirements.txt", False),
        ("README.md", False),
        ("onnx/config.json", False),
        ("original/params.json", False),
        ("consolidated.safetensors", False),
        (".cache/x.json", False),
        ("safe-retrieval.json", False),
    ],
)
def test_what_belongs_to_a_model(path: str, expected: bool) -> None:
    assert is_model_file(path) is expected


def test_model_files_are_sorted_posix_paths(tmp_path: Path) -> None:
    for name in ("config.json", "1_Pooling/config.json", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(model_files(tmp_path)) == ["1_Pooling/config.json", "config.json"]


def test_tree_fingerprint_is_pinned() -> None:
    # by hand: SHA-256 of "a\0aa\nb\0bb\n"; sizes and the order of insertion do not matter
    files = {"b": FileDigest(2, "bb"), "a": FileDigest(1, "aa")}
    assert tree_fingerprint(files) == "sha256:" + hashlib.sha256(b"a\0aa\nb\0bb\n").hexdigest()
