"""Safe retrieval inside LlamaIndex."""
