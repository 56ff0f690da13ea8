"""Benchmarks: tasks as records, arms as records, one result file for each pair; ``safe-retrieval bench``."""
