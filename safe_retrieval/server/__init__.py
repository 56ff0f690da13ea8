"""The OpenAI-compatible HTTP server: embeddings, search and the refusal gate, for programs in any language."""
