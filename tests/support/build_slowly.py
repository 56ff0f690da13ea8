"""A program that builds an index slowly, for tests that kill it.

Run as ``python -m tests.support.build_slowly OUT COUNT DELAY``, with the number of documents and the seconds a shard.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safe_retrieval.index.builder import build_index
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

SHARD_SIZE = 5

if __name__ == "__main__":
    out, count, delay = sys.argv[1:]
    build_index(
        small_corpus(int(count)), HashEncoder(delay=float(delay)), Path(out), shard_size=SHARD_SIZE, progress=False
    )
