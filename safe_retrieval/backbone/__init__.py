"""The frozen causal language model that queries are asked of."""
