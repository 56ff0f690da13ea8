"""Retrieval: from a query to hits, through one of several arms and, if wanted, a refusal gate."""
