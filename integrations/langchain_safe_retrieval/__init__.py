"""Safe retrieval inside LangChain: embeddings with two doors, a vector store, and retrievers with a refusal gate.

::

    from langchain_safe_retrieval import SafeRetriever

    retriever = SafeRetriever.from_vectorstore(store, on_refusal="empty")  # in the place of store.as_retriever()
"""

from langchain_safe_retrieval.chat import LocalChatModel
from langchain_safe_retrieval.embeddings import SafeRetrievalEmbeddings
from langchain_safe_retrieval.gate import RefusalGate, Verdict
from langchain_safe_retrieval.retriever import OnRefusal, SafeRetriever
from langchain_safe_retrieval.vectorstore import SafeRetrievalVectorStore

__all__ = [
    "LocalChatModel",
    "OnRefusal",
    "RefusalGate",
    "SafeRetrievalEmbeddings",
    "SafeRetrievalVectorStore",
    "SafeRetriever",
    "Verdict",
]
