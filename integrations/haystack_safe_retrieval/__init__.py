"""Safe retrieval inside Haystack."""
