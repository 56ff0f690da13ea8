from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_retrieval.index import products
from safe_retrieval.index.products import largest_products
from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import FloatMatrix


def at_offset(rows: FloatMatrix, offset: int) -> FloatMatrix:
    """A copy that begins so many bytes after an address that float32 may have."""
    copy = np.ndarray(rows.shape, np.float32, buffer=np.empty(rows.nbytes + offset, np.uint8), offset=offset)
    copy[:] = rows
    assert copy.flags.aligned == (offset == 0)
    return copy


@given(
    vectors=st.integers(1, 40),
    queries=st.integers(0, 5),
    values=st.integers(1, 50),
    share=st.sampled_from([None, 0.1, 0.4, 0.9]),
    block=st.integers(1, 50),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_largest_of_all_blocks(
    *, vectors: int, queries: int, values: int, share: float | None, block: int, offset: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # Whole numbers in few values, so that products are exact and ties are common.
    rows = random.integers(-values, values, (vectors, 3)).astype(np.float32)
    asked = random.integers(-values, values, (queries, 3)).astype(np.float32)
    mask = np.ones(vectors, dtype=np.bool_) if share is None else random.random(vectors) < share
    mask[random.integers(vectors)] = True
    count = int(random.integers(1, np.count_nonzero(mask) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_BLOCK_ROWS", block)
        patch.setattr(products, "_BLOCK_QUERIES", 2)
        patch.setattr(products, "_COPIED_ROWS", 3)
        mapped = at_offset(rows, offset)
        scores, found = largest_products(asked, mapped, count, None if share is None else Selection(mask))
    assert scores.shape == found.shape == (queries, count)
    assert scores.dtype == np.float32
    every = np.where(mask, asked @ rows.T, -np.inf)
    assert np.array_equal(scores, -np.sort(-every, axis=1)[:, :count])
    assert np.array_equal(np.take_along_axis(every, found, axis=1), scores)
    assert all(len(set(line)) == count for line in found.tolist())
