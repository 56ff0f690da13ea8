"""Safe retrieval inside sentence-transformers."""
