"""Safe retrieval inside Haystack: embedders for queries and documents, and a retriever over an index folder.

::

    from haystack_safe_retrieval import SafeDocumentEmbedder, SafeIndexRetriever, SafeTextEmbedder

    pipeline.add_component("embedder", SafeTextEmbedder(arm="blend"))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
"""

from haystack_safe_retrieval.embedders import SafeDocumentEmbedder, SafeTextEmbedder
from haystack_safe_retrieval.retriever import SafeIndexRetriever

__all__ = ["SafeDocumentEmbedder", "SafeIndexRetriever", "SafeTextEmbedder"]
