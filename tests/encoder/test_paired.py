from __future__ import annotations

import numpy as np
import pytest

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.errors import EncoderMismatchError
from safe_retrieval.types import Encoder
from tests.support.encoders import HashEncoder


def test_each_side_goes_through_its_own_encoder() -> None:
    query, document = HashEncoder("asks", refused=["bad"]), HashEncoder("stores")
    pair = PairedEncoder(query, document)
    assert isinstance(pair, Encoder)
    assert (pair.name, pair.dimension, pair.space) == ("asks", 32, "hash:32")

    vectors, refusal = pair.encode(["a bad one", "a good one"])
    assert refusal is not None
    assert refusal.tolist() == pytest.approx([0.96, 0.1])
    assert np.array_equal(vectors, pair.encode_queries(["a bad one", "a good one"]))
    assert document.query_calls == 0

    pair.encode_documents(["stored"])
    assert (query.document_calls, document.document_calls) == ([], [["stored"]])


@pytest.mark.parametrize("other", [HashEncoder(space="elsewhere"), HashEncoder(dimension=8, space="hash:32")])
def test_encoders_of_two_spaces_are_no_pair(other: HashEncoder) -> None:
    with pytest.raises(EncoderMismatchError, match="one vector space"):
        PairedEncoder(HashEncoder(), other)
