"""Safe retrieval inside LangChain."""
