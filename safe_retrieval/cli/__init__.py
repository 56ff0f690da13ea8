"""The ``safe-retrieval`` program: one command group a file, results to stdout, progress and logs to stderr."""
