"""Searching with documents fetched: ours against bare FAISS and against LangChain's FAISS store, in alternate rounds.

    python benchmarks/index/search.py --sizes Flat:20000 Flat:100000 HNSW32:100000 IVF1024,Flat:1000000

Bare FAISS searches the same vectors and gives positions and scores, no documents. LangChain's store searches them and
gives documents out of a dictionary; both its vectors and its search are flat, whatever kind ours is. Ours gives exact
scores and documents out of SQLite. Bare FAISS looks at as many clusters and nodes as ours does. Ours and bare FAISS are
both opened twice, memory-mapped (ours is unless asked otherwise) and read into memory (FAISS's own default, and all
that LangChain's store can): the system's page cache costs either of them something that is no overhead of ours. Queries
are vectors, so no encoder is in the way. All sides have as many threads as FAISS takes; ours may use them for a single
query too. LangChain's turn, a flat search, leaves the processor's cache cold for whoever comes next.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import faiss
import numpy as np
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document as Stored
from langchain_core.embeddings import FakeEmbeddings

from benchmarks.index.measuring import RESULTS, random_blocks
from benchmarks.measuring import timed, write_result
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.index.assemble import assemble_index
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.manifest import EncoderRecord
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.index.segments import Block
from safe_retrieval.types import Document, FloatMatrix

DEFAULT_SIZES = [("Flat", 20_000), ("Flat", 100_000), ("HNSW32", 100_000), ("IVF1024,Flat", 1_000_000)]
"""Each kind at a size at which the advisor would take it or one like it."""
OPENED = {"memory-mapped": faiss.IO_FLAG_MMAP_IFC, "in memory": 0}
"""The ways to open an index, and FAISS's flag for each."""
_TEXT = "A passage of some length, as documents have it, so that fetching it costs what it costs elsewhere too. " * 5


def corpus(vectors: FloatMatrix, start: int) -> Block:
    """Documents for some vectors."""
    return Block(
        [
            Document(f"d{start + row}", f"{start + row} {_TEXT}", metadata={"number": row})
            for row in range(len(vectors))
        ],
        vectors,
    )


def _langchain(vectors: FloatMatrix) -> Any:
    """LangChain's FAISS store over the same vectors, of the kind that it makes itself.

    It is put together from its parts: ``from_embeddings`` wants each number as a Python object, at a million vectors
    some 12 GB.
    """
    flat: Any = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(vectors)
    documents = {
        document.id: Stored(id=document.id, page_content=document.text, metadata=dict(document.metadata))
        for document in corpus(vectors, 0).documents
    }
    return FAISS(FakeEmbeddings(size=vectors.shape[1]), flat, InMemoryDocstore(documents), dict(enumerate(documents)))


Latency: TypeAlias = dict[str, dict[str, float]]


def _latencies(sides: dict[str, Callable[[FloatMatrix], Any]], batches: Sequence[FloatMatrix]) -> Latency:
    """Median milliseconds of each side, which take turns query by query: on the clock, and of processor time.

    Each side first answers a quarter of the batch before, off the clock. Threads wait for work by turning in circles
    for some milliseconds; NumPy's would slow FAISS's down, and the other way round, as in no program that asks one
    index.
    """
    clock: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for number, batch in enumerate([batches[-1], *batches]):  # the first one warms up
        before = batches[number - 2]
        names = list(sides)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:  # nobody is always the first
            ask = sides[name]
            ask(before[: -(-len(before) // 4)])
            took = timed(partial(ask, batch))
            clock[name].append(1_000 * took.clock)
            processor[name].append(1_000 * took.processor)
    return {
        kind: {name: round(statistics.median(values[1:]), 4) for name, values in times.items()}
        for kind, times in (("clock", clock), ("processor", processor))
    }


def _look_at_as_much(bare: Any, k: int) -> None:
    """Let FAISS look at as many nodes and clusters as ours does."""
    if hasattr(bare, "hnsw"):
        bare.hnsw.efSearch = max(64, 2 * k)
    elif hasattr(bare, "nprobe"):
        bare.nprobe = max(8, bare.nlist // 16)


def _sides(
    bare: Mapping[str, Any], ours: Mapping[str, SearchableIndex], store: Any, k: int
) -> dict[str, Callable[[FloatMatrix], Any]]:
    """The same question to FAISS alone and to an index of ours with its documents, by the way each was opened, and to
    LangChain's store."""

    def langchain(batch: FloatMatrix) -> Any:
        return [store.similarity_search_with_score_by_vector(row.tolist(), k=k) for row in batch]

    sides: dict[str, Callable[[FloatMatrix], Any]] = {}
    for opened in OPENED:
        _look_at_as_much(bare[opened], k)
        sides[f"faiss, {opened}"] = partial(_search_faiss, bare[opened], k)
        sides[f"ours, {opened}"] = partial(_search_ours, ours[opened], k)
    return {**sides, "langchain": langchain}


def _search_faiss(bare: Any, k: int, batch: FloatMatrix) -> Any:
    return bare.search(batch, k)


def _search_ours(index: SearchableIndex, k: int, batch: FloatMatrix) -> Any:
    return index.search_documents(batch, k)


def _ratios(found: Latency, one: str, other: str) -> dict[str, float]:
    return {kind: round(times[one] / times[other], 4) for kind, times in found.items()}


def measure(count: int, dimension: int, *, factory: str, queries: int, ks: Sequence[int]) -> dict[str, Any]:
    """Latencies of all sides for each k, single queries and batches of 64, and ratios."""
    vectors = np.concatenate(list(random_blocks(count, dimension)))
    asked = np.concatenate(list(random_blocks(max(queries, 384), dimension, seed=1)))
    batches = {"single": [row[None] for row in asked[:queries]], "batch of 64": np.array_split(asked[:384], 6)}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "index"
        blocks = (corpus(vectors[start : start + 10_000], start) for start in range(0, count, 10_000))
        assemble_index(blocks, EncoderRecord("random", "random"), dimension, out, factory=factory)
        with ExitStack() as stack:
            ours = {
                opened: stack.enter_context(load_index(out, read_only=True, memory_map=bool(flag)))
                for opened, flag in OPENED.items()
            }
            segment = ours["memory-mapped"].manifest.segments[0]
            path = str(out / segment.vectors.name)
            bare = {opened: faiss.read_index(path, flag) for opened, flag in OPENED.items()}
            store = _langchain(vectors)
            for name, parts in batches.items():
                for k in ks:
                    found = _latencies(_sides(bare, ours, store, k), parts)
                    over_faiss = {way: _ratios(found, f"ours, {way}", f"faiss, {way}") for way in OPENED}
                    over_langchain = _ratios(found, "ours, memory-mapped", "langchain")
                    rows.append(
                        {
                            "queries": name,
                            "k": k,
                            "milliseconds": found,
                            "over_faiss": over_faiss,
                            "over_langchain": over_langchain,
                        }
                    )
    return {"vectors": count, "factory": segment.factory, "rows": rows}


def _size(text: str) -> tuple[str, int]:
    """A kind of index and a number of vectors, as ``KIND:NUMBER``."""
    factory, _, count = text.rpartition(":")
    return parse_factory(factory).name, int(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description="Search latency against bare FAISS and LangChain's store.")
    parser.add_argument("--sizes", type=_size, nargs="+", metavar="KIND:VECTORS", default=DEFAULT_SIZES)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--out", type=Path, default=RESULTS / "search.json")
    options = parser.parse_args(arguments)
    source_state()
    sizes = [
        measure(count, options.dimension, factory=factory, queries=options.queries, ks=options.k)
        for factory, count in options.sizes
    ]
    result = {
        "benchmark": "search latency, documents fetched",
        "dimension": options.dimension,
        "threads": faiss.omp_get_max_threads(),
        "goal_over_faiss": 1.15,
        "sizes": sizes,
    }
    write_result(options.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
