"""What reproduces every figure in the documentation. Imports ``safe_retrieval``, never the other way."""
