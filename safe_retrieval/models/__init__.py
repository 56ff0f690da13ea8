"""What is downloaded: the catalog of models, and fetching them into a cache that is verified to the byte.

``catalog`` knows the models by name, ``fetch.resolve`` turns any name into a folder on this machine, ``inventory``
lists, verifies and prunes what the cache holds.
"""
