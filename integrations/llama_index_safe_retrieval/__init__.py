"""Safe retrieval inside LlamaIndex: an embedding with two doors, and a retriever over an index folder.

::

    from llama_index.core import VectorStoreIndex
    from llama_index_safe_retrieval import SafeRetrievalEmbedding, SafeRetrievalRetriever

    index = VectorStoreIndex.from_documents(documents, embed_model=SafeRetrievalEmbedding())
    retriever = SafeRetrievalRetriever.open("my-index", arm="blend", gate="empty")
"""

from llama_index_safe_retrieval.embedding import SafeRetrievalEmbedding
from llama_index_safe_retrieval.retriever import SafeRetrievalRetriever

__all__ = ["SafeRetrievalEmbedding", "SafeRetrievalRetriever"]
