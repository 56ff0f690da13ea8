"""An index folder opened for asking: vectors, documents and manifest as one object.

::

    index = load_index("my-index")
    index.check_encoder(encoder)
    hits = index.search(encoder.encode_queries(["who wrote the Iliad?"]), k=10)
    documents = index.get_documents([hit.id for hit in hits[0]])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from safe_retrieval.errors import EncoderMismatchError, IndexFolderError, IndexFormatError, InputError
from safe_retrieval.index.documents import DocumentStore
from safe_retrieval.index.faiss_index import FaissIndex
from safe_retrieval.index.manifest import IndexManifest, check_file, read_manifest
from safe_retrieval.index.vectors import check_vectors
from safe_retrieval.types import Document, Encoder, FloatMatrix, Hit

# A rebuild replaces the manifest and then removes the files of the old one. Whoever read the old manifest just before
# finds its files gone and looks again.
_ATTEMPTS = 5
_BLOCK_ROWS = 16_384


class SearchableIndex:
    """What :func:`load_index` returns; may be used from several threads. Close it, or use it as a context manager.

    Attributes:
        path: the folder.
        manifest: what it holds and who may ask it.
    """

    def __init__(self, path: Path, manifest: IndexManifest, vectors: FaissIndex, documents: DocumentStore) -> None:
        self.path = path
        self.manifest = manifest
        self._vectors = vectors
        self._documents = documents

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.manifest.dimension

    def close(self) -> None:
        """Close the documents file."""
        self._documents.close()

    def search(self, vectors: FloatMatrix, k: int = 10) -> list[list[Hit]]:
        """The nearest documents to each query.

        Args:
            vectors: (q, dimension) float32, unit norm, in the index's space (see :meth:`check_encoder`).
            k: most hits for a query.

        Returns:
            One list for each query: min(k, n) hits by falling cosine, ties by document position.

        Raises:
            InputError: vectors of another shape or type, not finite or not of unit norm, or ``k`` below 1.
        """
        return self._vectors.search(vectors, k)

    def get_documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in the order asked.

        Raises:
            InputError: an id is not in the index.
        """
        return self._documents.get(ids)

    def documents(self) -> Iterator[Document]:
        """All documents by position, streamed."""
        return self._documents.iterate()

    def faults(self) -> list[str]:
        """What is wrong with the numbering of documents or with a vector, one sentence each; reads everything."""
        path = self.path / self.manifest.vectors.name
        found = self._documents.faults()
        for start in range(0, len(self), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(self))
            try:
                check_vectors(self._vectors.vectors_between(start, stop), self.dimension)
            except InputError as error:
                found.append(f"{path}: among the vectors {start} to {stop - 1}: {error}")
        return found

    def check_encoder(self, encoder: Encoder) -> None:
        """Make sure that an encoder's queries land in the space of this index.

        Raises:
            EncoderMismatchError: they do not; the message names both encoders.
        """
        own = self.manifest.encoder
        if encoder.space != own.space or encoder.dimension != self.dimension:
            raise EncoderMismatchError(
                f"{self.path} was built by {own.name} ({self.dimension} dimensions, space {_short(own.space)}); "
                f"{encoder.name} speaks another space ({encoder.dimension} dimensions, {_short(encoder.space)}). Ask "
                f"with {own.name} or an adapter that was trained for it, or build the index with {encoder.name}"
            )


def load_index(path: str | Path, *, verify: bool = True) -> SearchableIndex:
    """Open an index folder.

    Args:
        path: the folder.
        verify: compare the hash of each file with the manifest before it is read (about a second a gigabyte). Without
            it only sizes, versions and counts are compared; do that for folders that nobody else can write.

    Raises:
        IndexFolderError: there is no index.
        IndexFormatError: a file is missing, truncated, altered or of an unknown version; the message names it.
    """
    folder = Path(path)
    for _ in range(_ATTEMPTS - 1):
        manifest = read_manifest(folder)
        try:
            return _open(folder, manifest, verify=verify)
        except IndexFormatError:
            if read_manifest(folder) == manifest:
                raise
    return _open(folder, read_manifest(folder), verify=verify)


def _open(folder: Path, manifest: IndexManifest, *, verify: bool) -> SearchableIndex:
    vectors_path = check_file(folder, manifest.vectors, hashes=verify)
    documents_path = check_file(folder, manifest.documents, hashes=verify)
    with ExitStack() as on_failure:
        documents = on_failure.enter_context(DocumentStore(documents_path))
        if len(documents) != manifest.count:
            raise IndexFormatError(f"{documents_path}: expected {manifest.count} documents, got {len(documents)}")
        vectors = FaissIndex.read(vectors_path, ids=documents)
        if vectors.dimension != manifest.dimension:
            raise IndexFormatError(
                f"{vectors_path}: expected vectors of length {manifest.dimension}, got {vectors.dimension}"
            )
        on_failure.pop_all()
    return SearchableIndex(folder, manifest, vectors, documents)


def verify_index(path: str | Path) -> list[str]:
    """Look for faults everywhere in an index folder: sizes, hashes, numbering, every vector.

    Returns:
        One sentence for each fault, which names the file; empty if the index is sound.

    Raises:
        IndexFolderError: there is no index.
    """
    folder = Path(path)
    try:
        manifest = read_manifest(folder)
    except IndexFormatError as error:
        return [str(error)]
    faults = []
    for record in manifest.files():
        try:
            check_file(folder, record)
        except IndexFormatError as error:
            faults.append(str(error))
    if faults:
        return faults  # FAISS and SQLite are not let near files that are known to be damaged
    try:
        with _open(folder, manifest, verify=False) as index:
            return index.faults()
    except IndexFolderError as error:
        return [str(error)]


def _short(space: str) -> str:
    return space if len(space) <= 20 else f"{space[:19]}..."
