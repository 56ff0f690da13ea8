"""Safe retrieval inside Hugging Face datasets: an index of ours beside a data set's rows, asked by the data set itself.

::

    from datasets_safe_retrieval import add_safe_index

    add_safe_index(dataset, "text", "my-index", arm="blend", gate="empty")
    scores, examples = dataset.get_nearest_examples("text", "who wrote the Iliad?", k=5)
"""

from datasets_safe_retrieval.index import SafeDatasetIndex, add_safe_index, load_safe_index

__all__ = ["SafeDatasetIndex", "add_safe_index", "load_safe_index"]
