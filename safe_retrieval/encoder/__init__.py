"""Encoders: text to unit vectors, and for response encoders a refusal probability from the same forward pass."""
