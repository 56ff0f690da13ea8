"""LangChain's folders are read without unpickling: real ones, old ones, and ones that want to run something."""

from __future__ import annotations

import datetime
import importlib
import pickle
import pickletools
import random
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document as TheirDocument
from langchain_core.embeddings import Embeddings

from safe_retrieval.errors import DataError, EncoderMismatchError, IndexFormatError
from safe_retrieval.index.adopt import import_langchain
from safe_retrieval.index.docstore import Instance, not_taken, read_docstore, read_pickle
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.types import Document
from tests.index.test_exchange import Stranger
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder()
TEXTS = [f"stone {n} lies in the river" for n in range(12)]
METADATA: list[dict[str, Any]] = [
    {"n": n, "f": n / 3, "tags": ["a", {"b": None}], "ok": n % 2 == 0, "big": 2**70, "t": "\u00fc" * 300}
    for n in range(12)
]


class Words(Embeddings):
    """The tests' encoder, as LangChain asks it."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return ENCODER.encode_documents(texts).tolist()  # type: ignore[no-any-return]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def saved(folder: Path, metadata: list[dict[str, Any]] = METADATA, **options: Any) -> Path:
    store = FAISS.from_texts(TEXTS, Words(), metadatas=metadata, ids=[f"id {n}" for n in range(12)], **options)
    store.save_local(str(folder))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance_strategy": DistanceStrategy.MAX_INNER_PRODUCT},
        {"distance_strategy": DistanceStrategy.COSINE, "normalize_L2": True},
    ],
)
def test_a_real_folder(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = saved(tmp_path / "theirs", **options)
    imported = import_langchain(folder, tmp_path / "index", ENCODER)
    assert imported.left_out == ()
    assert imported.agreement is not None
    assert (imported.agreement.sample, imported.manifest.count) == (12, 12)
    with load_index(tmp_path / "index") as index:
        expected = [Document(f"id {n}", text, "", METADATA[n]) for n, text in enumerate(TEXTS)]
        assert list(index.documents()) == expected
        (hits,) = index.search(ENCODER.encode_queries([TEXTS[7]]), 3)
        assert hits[0].id == "id 7"
    assert verify_index(tmp_path / "index") == []
    with pytest.raises(EncoderMismatchError, match="stranger"):
        import_langchain(folder, tmp_path / "x", Stranger("stranger"))


def test_after_deletions_of_theirs(tmp_path: Path) -> None:
    store = FAISS.from_texts(TEXTS, Words(), ids=[f"id {n}" for n in range(12)])
    store.delete(["id 3", "id 0"])
    store.save_local(str(tmp_path / "theirs"), index_name="named")
    import_langchain(tmp_path / "theirs", tmp_path / "index", ENCODER, name="named")
    with load_index(tmp_path / "index") as index:
        assert index.ids() == [f"id {n}" for n in range(12) if n not in {0, 3}]


def test_what_cannot_be_taken_is_said(tmp_path: Path) -> None:
    odd = [dict(fields) for fields in METADATA]
    odd[2]["when"] = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)
    odd[5]["deep"] = {"array": [np.float32(1.5)]}
    odd[6]["path"] = Path("/tmp")  # noqa: S108 (never opened)
    odd[7] |= {"nan": float("nan"), "keys": {1: 2}, "who": uuid.UUID(int=7), "set": {1, 2}, "raw": b"x"}
    folder = saved(tmp_path / "theirs", odd)
    with pytest.raises(
        DataError, match=r"'id 2': metadata field 'when' holds a datetime\.datetime, and cannot be taken"
    ):
        import_langchain(folder, tmp_path / "x", ENCODER)
    assert not (tmp_path / "x" / "manifest.json").exists()
    imported = import_langchain(folder, tmp_path / "index", ENCODER, skip_foreign=True)
    assert len(imported.left_out) == 8
    assert "document 'id 5': metadata field 'deep' holds a numpy" in imported.left_out[1]
    with load_index(tmp_path / "index") as index:
        assert [dict(document.metadata) for document in index.documents()] == METADATA


class Bomb:
    """Runs something when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Bomb, "ran", True))


def with_pickle(folder: Path, value: Any, protocol: int | None = None) -> Path:
    (folder / "index.pkl").write_bytes(pickle.dumps(value, protocol))
    return folder


def test_nothing_is_ever_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "theirs")
    monkeypatch.setattr(Bomb, "ran", False)
    bombed = TheirDocument(page_content="x", metadata={"bomb": Bomb()}, id="b")
    store = InMemoryDocstore({**{f"id {n}": bombed for n in range(12)}})
    order = {n: f"id {n}" for n in range(12)}
    pickle.loads(pickle.dumps(Bomb()))  # noqa: S301 (to see that it would)
    assert Bomb.ran
    Bomb.ran = False
    for value in (Bomb(), (Bomb(), order), (store, Bomb()), (store, order), [Bomb()]):
        for protocol in range(6):
            with pytest.raises(DataError):
                import_langchain(with_pickle(folder, value, protocol), tmp_path / "x", ENCODER)
    for opcodes in (
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02X\x01\x00\x00\x00aQ.",
        b"\x82\x01.",
    ):
        (folder / "index.pkl").write_bytes(opcodes)
        with pytest.raises(DataError, match=r"index\.pkl"):
            read_docstore(folder / "index.pkl")
    assert not Bomb.ran


def test_the_module_imports_no_unpickler() -> None:
    source = Path(importlib.import_module("safe_retrieval.index.docstore").__file__ or "").read_text()
    assert "pickle.load" not in source
    assert "import pickle\n" not in source
    assert "getattr(" not in source
    assert "import_module" not in source


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_todays_documents(tmp_path: Path, protocol: int) -> None:
    documents = {f"id {n}": TheirDocument(page_content=TEXTS[n], metadata=METADATA[n], id=f"id {n}") for n in range(12)}
    value = (InMemoryDocstore(documents), {n: f"id {n}" for n in range(12)})
    store, order = read_docstore(with_pickle(tmp_path, value, protocol) / "index.pkl")
    assert order == value[1]
    assert {name: (found.text, found.metadata) for name, found in store.items()} == {
        f"id {n}": (TEXTS[n], METADATA[n]) for n in range(12)
    }


@pytest.mark.parametrize("protocol", range(6))
def test_documents_of_the_first_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    """Plain objects with their fields in ``__dict__``, as LangChain 0.0 stored them under names that are gone."""

    def module(name: str, **members: Any) -> None:
        made = types.ModuleType(name)
        for member, value in members.items():
            value.__module__ = name
            setattr(made, member, value)
        monkeypatch.setitem(sys.modules, name, made)

    class OldDocument:
        def __init__(self, text: str) -> None:
            self.page_content, self.metadata, self.lookup_index = text, {"a": 1}, 0

    class OldStore:
        def __init__(self, entries: dict[str, Any]) -> None:
            self._dict = entries

    module("langchain")
    module("langchain.docstore")
    OldDocument.__qualname__ = OldDocument.__name__ = "Document"
    OldStore.__qualname__ = OldStore.__name__ = "InMemoryDocstore"
    module("langchain.docstore.document", Document=OldDocument)
    module("langchain.docstore.in_memory", InMemoryDocstore=OldStore)
    path = with_pickle(tmp_path, (OldStore({"x": OldDocument("text")}), {0: "x"}), protocol) / "index.pkl"
    store, order = read_docstore(path)
    assert (store["x"].text, store["x"].metadata, order) == ("text", {"a": 1}, {0: "x"})


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    folder = saved(tmp_path / "theirs")
    document = TheirDocument(page_content="x")
    for value, message in (
        ((InMemoryDocstore({}), {0: "a"}), "expected the ids of 12 vectors"),
        ((InMemoryDocstore({}), dict.fromkeys(range(12), "a")), "there is no document 'a'"),
        ((InMemoryDocstore({"a": document}), dict.fromkeys(range(12), "a")), "same id|not those of"),
        ((InMemoryDocstore({}), {"0": "a"}), "expected a position and an id"),
        ((InMemoryDocstore({"a": 7}), {0: "a"}), "expected a document of LangChain's under 'a', got int"),
        ({"a": 1}, "expected LangChain's document store"),
    ):
        with pytest.raises((DataError, EncoderMismatchError), match=message):
            import_langchain(with_pickle(folder, value), tmp_path / "x", ENCODER)
    (folder / "index.pkl").unlink()
    with pytest.raises(DataError, match=r"index\.pkl cannot be read"):
        import_langchain(folder, tmp_path / "x", ENCODER)
    (saved(tmp_path / "other") / "index.faiss").unlink()
    with pytest.raises(IndexFormatError, match="faiss"):
        import_langchain(tmp_path / "other", tmp_path / "x", ENCODER)


def test_damage_is_one_error(tmp_path: Path) -> None:
    whole = (saved(tmp_path / "theirs") / "index.pkl").read_bytes()
    rng = random.Random(0)
    path = tmp_path / "damaged.pkl"
    for _ in range(300):
        place = rng.randrange(len(whole))
        damaged = (
            whole[:place] if rng.random() < 0.3 else whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1 :]
        )
        path.write_bytes(damaged)
        try:
            read_docstore(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 (a flipped letter of a text is no error)


def test_a_small_file_for_an_endless_tree() -> None:
    layers: Any = "x"
    for _ in range(40):
        layers = [layers, layers]
    assert not_taken(read_pickle(pickle.dumps({"layers": layers}))) == "is too large or nested without end"
    loop: list[Any] = []
    loop.append(loop)
    assert not_taken(read_pickle(pickle.dumps(loop))) == "is too large or nested without end"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(PLAIN, st.integers(0, 5))
def test_plain_values_are_read_as_pickle_would(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    has_calls = any(opcode.name in {"REDUCE", "GLOBAL"} for opcode, _, _ in pickletools.genops(data))
    found = read_pickle(data)
    if has_calls:  # protocols before 3 write bytes as a call of codecs.encode, which is not made
        return
    assert found == value
    assert repr(found) == repr(value)


def test_an_object_is_a_mark_and_no_more() -> None:
    (found,) = read_pickle(pickle.dumps([uuid.UUID(int=1)]))
    assert isinstance(found, Instance)
    assert (found.kind, found.state) == ("uuid UUID", {})
