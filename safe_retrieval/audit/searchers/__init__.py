"""Ways to reach a retriever with passages of its own; each is a :class:`~safe_retrieval.audit.searching.Searcher`."""
