"""Safe retrieval inside Hugging Face datasets."""
