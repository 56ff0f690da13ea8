"""Indexes: from a corpus to a folder that can be asked, and that says who may ask it.

``load_index`` and ``build_index`` are the two doors; nothing is imported here, so that reading a manifest does not
load faiss.
"""
