"""What an index costs beside bare FAISS: building, searching, opening, growing; one JSON file for each of them."""
