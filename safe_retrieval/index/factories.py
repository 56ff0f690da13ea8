"""Which kinds of FAISS index there are here, by FAISS's own names, and what each needs.

======================== ======================================================== ===================================
name                     what it is                                               vectors
======================== ======================================================== ===================================
``Flat``                 every vector is looked at: exact                         as they are
``HNSW32``               a graph of neighbours, 32 links a node                   as they are, plus the links
``IVF256,Flat``          256 clusters, the nearest few of which are looked at     as they are
``SQ8``, ``IVF256,SQ8``  one byte a dimension                                     codes, and a file for exact scores
``RaBitQ``,              one bit a dimension (Gao and Long, RaBitQ, SIGMOD 2024)  codes, and a file for exact scores
``IVF256,RaBitQ``
``IVF256,PQ48``          48 bytes, each the nearest of 256 centroids of a slice   codes, and a file for exact scores
                         (Jegou et al., Product quantization, TPAMI 2011)
======================== ======================================================== ===================================

What codes nominate is refined: exact scores of some times as many candidates decide, from the file beside them.

Other names are refused: what stands here is searched with filters, changed and verified in tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from safe_retrieval.errors import InputError

FLAT = "Flat"
"""Every vector as it is, searched exactly."""

AUTO = "auto"
"""Let :mod:`~safe_retrieval.index.advisor` choose, when the number of documents is known."""

_NAME = re.compile(r"(?:IVF(?P<lists>\d+),)?(?P<codes>Flat|SQ8|RaBitQ|HNSW(?P<links>\d+)|PQ(?P<slices>\d+))")
# FAISS warns below 39 training vectors a centroid and fails below one; more than 256 add nothing.
_LEAST_TRAINING = 39
_MOST_TRAINING = 256
_CENTROIDS = 256
"""Of each slice of a product quantiser: a byte's worth."""


@dataclass(frozen=True, slots=True)
class Factory:
    """A kind of index.

    Attributes:
        name: as FAISS's ``index_factory`` takes it.
        lists: clusters of an inverted file; 0 without one.
        codes: ``Flat``, ``HNSW``, ``SQ8``, ``RaBitQ`` or ``PQ``.
        links: of each node of HNSW; 0 for the others.
        slices: of a vector, with a byte each, in a product quantiser; 0 for the others.
    """

    name: str
    lists: int
    codes: str
    links: int
    slices: int = 0

    @property
    def exact(self) -> bool:
        """Whether every vector is looked at, as it is."""
        return self.name == FLAT

    @property
    def lossy(self) -> bool:
        """Whether vectors are stored as codes, so that exact scores need a file of their own."""
        return self.codes in {"SQ8", "RaBitQ", "PQ"}

    @property
    def least_training(self) -> int:
        """Vectors that training needs to be any good; 0 where there is none."""
        return _LEAST_TRAINING * max(self.lists, _CENTROIDS if self.slices else 0)

    @property
    def most_training(self) -> int:
        """Vectors beyond which training gains nothing."""
        # Scalar quantisers and RaBitQ learn bounds and a mean: some hundred vectors are plenty.
        return _MOST_TRAINING * max(2, self.lists, _CENTROIDS if self.slices else 0)

    def bytes_per_vector(self, dimension: int) -> float:
        """Memory that a vector takes while it is searched; the file for exact scores stays on the disk."""
        match self.codes:
            case "SQ8":
                size: float = dimension
            case "RaBitQ":
                size = dimension / 8 + 8
            case "PQ":
                size = self.slices
            case "HNSW":
                size = 4 * dimension + 4 * 2 * self.links * 1.1
            case _:
                size = 4 * dimension
        # An inverted file keeps a position for each vector, and a direct map to find it again.
        return size + (16 if self.lists else 0)

    def check_dimension(self, dimension: int) -> None:
        """Refuse to cut vectors into slices that are not of one length.

        Raises:
            InputError: the number of slices does not divide the dimension.
        """
        if self.slices and dimension % self.slices:
            raise InputError(
                f"{self.name} cuts vectors into {self.slices} slices of one length, which {dimension} numbers do not "
                f"allow; take a number that divides {dimension}"
            )

    def check_count(self, count: int) -> None:
        """Refuse to train on fewer vectors than that takes.

        Raises:
            InputError: there are too few.
        """
        if count < self.least_training:
            raise InputError(
                f"{self.name} needs at least {self.least_training:,} vectors to be trained on, got {count:,}; take "
                f"{FLAT}, fewer clusters, or {AUTO}"
            )


MOST_LISTS = 1_000_000
"""Clusters, levels and the like that a FAISS file may name before it is refused as damaged."""


def parse_factory(name: str) -> Factory:
    """What a name of FAISS's stands for.

    Raises:
        InputError: it is none of those above.
    """
    found = _NAME.fullmatch(name)
    # A product quantiser without clusters takes no filters in FAISS.
    if found is None or (found["lists"] and found["links"]) or (found["slices"] and not found["lists"]):
        raise InputError(
            f"expected {AUTO}, Flat, HNSW<links>, SQ8, RaBitQ, or IVF<lists>, followed by Flat, SQ8, RaBitQ or "
            f"PQ<slices>, got {name!r}"
        )
    lists, links, slices = (int(found[part] or 0) for part in ("lists", "links", "slices"))
    if (found["lists"] and lists < 1) or (found["links"] and not 2 <= links <= 512) or (found["slices"] and slices < 1):
        raise InputError(f"{name}: expected at least one cluster, from 2 to 512 links, and at least one slice")
    codes = "HNSW" if links else "PQ" if slices else found["codes"]
    if lists > MOST_LISTS:
        raise InputError(f"{name}: expected at most {MOST_LISTS:,} clusters, which is what a FAISS file is read with")
    return Factory(name, lists, codes, links, slices)
