"""Safe retrieval inside mteb: our arms as mteb models, and harmful retrieval as an mteb task for any model.

::

    import mteb
    from mteb_safe_retrieval import HarmfulRetrieval, safe_retrieval_model

    mteb.evaluate(safe_retrieval_model("blend"), HarmfulRetrieval())
    mteb.evaluate(mteb.get_model("intfloat/e5-small-v2"), HarmfulRetrieval())
"""

from mteb_safe_retrieval.model import safe_retrieval_model
from mteb_safe_retrieval.run import TaskScores, run_mteb
from mteb_safe_retrieval.task import HarmfulRetrieval

__all__ = ["HarmfulRetrieval", "TaskScores", "run_mteb", "safe_retrieval_model"]
