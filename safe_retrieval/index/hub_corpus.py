"""Data sets of Hugging Face as corpora, by name: streamed from the hub, or out of a local folder of data files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safe_retrieval.errors import DataError, DownloadError, OfflineError
from safe_retrieval.index.corpus import documents_from
from safe_retrieval.index.rejects import Rejects
from safe_retrieval.index.rows import PLAIN_FIELDS, Fields
from safe_retrieval.models.fetch import is_offline
from safe_retrieval.types import Document

HUB_PREFIX = "hf:"
"""What stands before the name of a data set where a path could stand too."""


def read_dataset(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    fields: Fields = PLAIN_FIELDS,
    rejects: Rejects | None = None,
    offline: bool = False,
) -> Iterator[Document]:
    """Stream a data set by name, one document at a time; nothing is downloaded as a whole, and no code of it is run.

    Args:
        name: hub id, for example ``BeIR/scifact``, or a local folder of Parquet, JSON, CSV or text files.
        config: name of its configuration, where it has several.
        split: name of its split; ``None`` takes the only one there is.
        fields: which columns are id, title and text.
        rejects: as for :func:`~safe_retrieval.index.corpus.read_corpus`.
        offline: open no connection, so a local folder is expected.

    Raises:
        DataError: there is no such data set, configuration or split (at once); or a row is broken, as in
            :func:`~safe_retrieval.index.corpus.documents_from`.
        OfflineError: it would have to be read from the hub, and offline was asked for, here or by
            ``SAFE_RETRIEVAL_OFFLINE`` or ``HF_HUB_OFFLINE``.
        DownloadError: the network failed; the message says after how many rows.
    """
    import datasets

    if not Path(name).is_dir() and (is_offline(offline) or datasets.config.HF_HUB_OFFLINE):
        raise OfflineError(
            f"the data set {name!r} would have to be read from the hub, and offline was asked for; give a folder with "
            "its files, or a corpus file"
        )
    with _explained(name):
        loaded = datasets.load_dataset(name, config, split=split, streaming=True)
    if isinstance(loaded, Mapping):
        loaded = _only_split(name, loaded)
    return documents_from(_rows(name, loaded), fields=fields, name=name, rejects=rejects)


def _only_split(name: str, splits: Mapping[str, Any]) -> Any:
    if len(splits) != 1:
        raise DataError(f"{name} has the splits {', '.join(map(str, splits))}; name the one that is the corpus")
    return next(iter(splits.values()))


def _rows(name: str, loaded: Iterable[object]) -> Iterator[Mapping[str, Any]]:
    read = 0
    rows = iter(loaded)
    while True:
        with _explained(f"{name}, after row {read}"):
            row = next(rows, None)
        if row is None:
            return
        read += 1
        yield cast("Mapping[str, Any]", row)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the library and of the network as ours."""
    import httpx
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (FileNotFoundError, DatasetsError, ValueError, RuntimeError) as error:
        # RuntimeError: a data set that consists of a script, which is never run.
        raise DataError(f"{what}: the data set cannot be read: {error}") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DownloadError(
            f"{what}: the network failed ({type(error).__name__}: {error}); run the same again, it goes on where it can"
        ) from error
