"""The model card that goes with a saved model: what it is, and how it is loaded."""

from __future__ import annotations

from safe_retrieval.encoder.paired import PairedEncoder
from sentence_transformers_safe_retrieval.record import Recipe

_CARD = """---
library_name: sentence-transformers
tags: [sentence-transformers, sentence-similarity, safe-retrieval]
---

# {name}

Queries are encoded by the arm `{arm}` of Safe Retrieval ({query}), documents by `{document}`; both are vectors of
{dimension} numbers, of unit length, in one space.

This folder holds the adapter. Backbone and document encoder are named in `safe_retrieval.json`, and are fetched and
checked against their hashes when the model is loaded. The class of its module is part of the package `safe-retrieval`,
so it is loaded through it, and no code is taken from here:

```python
from sentence_transformers_safe_retrieval import load_sentence_transformer

model = load_sentence_transformer("PATH")
```
"""


def model_card(pair: PairedEncoder, recipe: Recipe | None) -> str:
    """The card's text."""
    return _CARD.format(
        name=pair.name,
        arm="custom" if recipe is None else recipe.arm.value,
        query=pair.query.name,
        document=pair.document.name,
        dimension=pair.dimension,
    )
