"""Safe retrieval inside sentence-transformers: a ``SentenceTransformer`` that encodes queries and documents as we do.

::

    from sentence_transformers_safe_retrieval import load_sentence_transformer, safe_sentence_transformer

    model = safe_sentence_transformer()
    model.encode_query("who wrote the Iliad?")  # (384,) float32, the vector of the response
    model.save_pretrained("my-model")
    model = load_sentence_transformer("my-model")
"""

from sentence_transformers_safe_retrieval.model import load_sentence_transformer, safe_sentence_transformer
from sentence_transformers_safe_retrieval.module import SafeRetrievalModule

__all__ = ["SafeRetrievalModule", "load_sentence_transformer", "safe_sentence_transformer"]
