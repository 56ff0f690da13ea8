"""Encoders: text to unit vectors, from what is asked or from what would be answered.

Nothing is imported here, so that importing one encoder does not load the others.
"""
