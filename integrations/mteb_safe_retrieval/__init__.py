"""Safe retrieval inside mteb."""
