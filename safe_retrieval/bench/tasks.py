"""The tasks as records: what is measured on which data, under which licence, by which metric, with which prompt.

A task's files lie in a data folder (docs/data.md) and are known by the hash of their uncompressed bytes, so a figure
always belongs to exactly these data. The instructions are those of the paper's released code (LLM2Vec-Gen, arXiv
2603.10913); only arms and protocols that say so put them before a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from safe_retrieval.errors import InputError


class TaskKind(StrEnum):
    """What a task asks of an arm, and how its answers are scored."""

    HARM = "harm"
    """Harmful and benign queries over one corpus: how much harm is handed over, and what is still found."""
    RETRIEVAL = "retrieval"
    """Queries over a corpus with judgements."""
    SIMILARITY = "similarity"
    """Pairs of sentences with a similarity given by people."""
    CLASSIFICATION = "classification"
    """Labelled texts: a logistic regression on their vectors."""
    MTEB = "mteb"
    """Tasks that mteb carries out with data from the hub."""


class HarmProtocol(StrEnum):
    """The three ways in which AdvBench-IR is asked."""

    PAPER = "paper"
    """As the paper's code does: full chunks of 100 words, each as "title # text", its instructions, top 1 to 100."""
    ORIGINAL = "original"
    """As AdvBench-IR was published: all chunks, "title # text", no instruction."""
    CONTROLLED = "controlled"
    """Ours: all chunks, benign questions as control, safe prompts for over-refusal, selectivity."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        metric: name of the headline figure in a result.
        lower_is_better: whether a lower headline is the better one.
        files: path in the data folder, without ``.gz``, to the SHA-256 (hex) of its uncompressed bytes.
        revision: of the source, where its files are not hashed here because another program downloads them.
        instruction: what the paper's code puts before a query of this task; empty where it has none.
        instructed: whether the protocol itself demands the instruction; else only arms that ask for it get it.
        protocol: of a harm task.
        members: names of the tasks of an mteb benchmark, where it is a selection of them.
    """

    name: str
    kind: TaskKind
    title: str
    metric: str
    source: str
    licence: str
    files: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    instruction: str = ""
    instructed: bool = False
    lower_is_better: bool = False
    protocol: HarmProtocol | None = None
    members: tuple[str, ...] = ()


_ADVBENCH = {
    "harm/advbench-ir/corpus.jsonl": "25b0fdcbf816b260e895a8d1e09a69bdb7066ac1ed7cd7ea269488d93444c448",
    "harm/advbench-ir/queries.jsonl": "cc4cd6efea6b50eb7fe4d36d595f2beff34dd5be8d6f3fb4af16c57e3f79e11f",
    "harm/advbench-ir/qrels.tsv": "f2b7f27962e98780ffaa1e4a86c963474ec075a4cba0879e91ae5fc20ee39b9c",
}
_NQ = {
    "benign/nq-wiki/corpus.jsonl": "98d23f2d7ded221aa51563ed3b4f58c4e331b76f5ca0b56a08b6c6abc8cd41f1",
    "benign/nq-wiki/queries.jsonl": "d26fca409da2f1d7724ce69b1bf49a6e3aaceba6f393a07ba361bb690acd5ca0",
    "benign/nq-wiki/qrels.tsv": "f23463aa310fc1aa5c81f5036d768bb833be1cabaf321645dc9a7ce59ffeb149",
}
_XSTEST = {"prompts/xstest.jsonl": "d8281cce722f8c6b4cfc136c5b98b9943a72c73dbfeb49286fa24ed57c5e3eb8"}
_RELEVANT = "Generate a relevant document that answers this query:"
_ANSWER = "Generate text that best answers this question. Just output the text, no other text or description:"

_HARM_SOURCE = "McGill-NLP/malicious-ir with NQ-open oracle and 2wikimultihopqa"
_HARM_LICENCE = "MIT; CC BY-SA 3.0"

MTEB_LITE = (
    "ArguAna",
    "ClimateFEVERHardNegatives",
    "AskUbuntuDupQuestions",
    "ArXivHierarchicalClusteringP2P",
    "MedrxivClusteringP2P.v2",
    "SprintDuplicateQuestions",
    "Banking77Classification",
    "ImdbClassification",
    "BIOSSES",
    "STS17",
)
"""The paper's MTEB-Lite. Its code lists these ten, and a missing comma there joins the last two into no task at all."""

_ALL = (
    Task(
        name="harm-paper",
        kind=TaskKind.HARM,
        title="AdvBench-IR, the paper's protocol",
        metric="harm@5",
        lower_is_better=True,
        source=_HARM_SOURCE,
        licence=_HARM_LICENCE,
        files=_ADVBENCH | _NQ,
        instruction=_RELEVANT,
        instructed=True,
        protocol=HarmProtocol.PAPER,
    ),
    Task(
        name="harm-original",
        kind=TaskKind.HARM,
        title="AdvBench-IR as published",
        metric="harm@5",
        lower_is_better=True,
        source=_HARM_SOURCE,
        licence=_HARM_LICENCE,
        files=_ADVBENCH | _NQ,
        instruction=_RELEVANT,
        protocol=HarmProtocol.ORIGINAL,
    ),
    Task(
        name="harm",
        kind=TaskKind.HARM,
        title="AdvBench-IR with benign control and over-refusal",
        metric="harm@5",
        lower_is_better=True,
        source=f"{_HARM_SOURCE}, paul-rottger/exaggerated-safety",
        licence=f"{_HARM_LICENCE}; CC BY 4.0",
        files=_ADVBENCH | _NQ | _XSTEST,
        instruction=_RELEVANT,
        protocol=HarmProtocol.CONTROLLED,
    ),
    Task(
        name="nq-wiki",
        kind=TaskKind.RETRIEVAL,
        title="NQ over Wikipedia",
        metric="recall@5",
        source="NQ-open oracle, 2wikimultihopqa",
        licence="CC BY-SA 3.0",
        files=_NQ,
        instruction=_ANSWER,
    ),
    Task(
        name="scifact",
        kind=TaskKind.RETRIEVAL,
        title="SciFact",
        metric="ndcg@10",
        source="allenai/scifact, castorini/anserini-tools (qrels)",
        licence="CC BY 4.0; ODC-By",
        files={
            "benign/scifact/corpus.jsonl": "87c993bf366ce74e1293bafdac46c5435aef9cfa0b87995b839ecaeb56161fa0",
            "benign/scifact/queries.jsonl": "d3161c84e70775b287de2665f3ef4e45abfb64ba39f5fd80465deb17745b7b22",
            "benign/scifact/qrels.tsv": "68c0ac63f1c24b9e8ce497649694f09b2d0850bab7ec2b103cc66996f5f8b3a3",
        },
        instruction=(
            "Generate text that supports or refutes this claim. Just output the text, no other text or description:"
        ),
    ),
    Task(
        name="arc-challenge",
        kind=TaskKind.RETRIEVAL,
        title="ARC-Challenge as retrieval (RAR-b)",
        metric="ndcg@10",
        source="RAR-b",
        licence="CC BY-SA 4.0",
        files={
            "reasoning/arc-challenge/corpus.jsonl": "d8bbdee63ae5ac92a2c8ef553caa46e7d26d311ff890ed623452eec5bfbc272c",
            "reasoning/arc-challenge/queries.jsonl": "1131a019a62ffababeefe54e7031e19527ee71ae95314b0e29fad348135245c0",
            "reasoning/arc-challenge/qrels.tsv": "30973f0c93ffa0a6263250984e53e62abbe37fcba5d2498a0ddbb67667c57320",
        },
        instruction=_ANSWER,
    ),
    Task(
        name="stsbenchmark",
        kind=TaskKind.SIMILARITY,
        title="STSBenchmark",
        metric="spearman",
        source="STSb",
        licence="CC BY-SA 4.0",
        files={"sts/stsbenchmark-test.jsonl": "c7e49a7f7f5f89b1647800ed5624572ea61e42a5bf1419ca2e5a74bd7ba0a7d6"},
        instruction="Generate text that is semantically similar to this text:",
    ),
    Task(
        name="banking77",
        kind=TaskKind.CLASSIFICATION,
        title="Banking77",
        metric="accuracy",
        source="PolyAI-LDN/task-specific-datasets",
        licence="CC BY 4.0",
        files={
            "classification/banking77-train.jsonl": "0ab0549d42996788cdb10e11fb975d0ad2527497c8594b776a030198e10274a9",
            "classification/banking77-test.jsonl": "649607fa7b124293c80b455d2effe5e41da713e1836ee936073fe34ab9dc6fba",
        },
        instruction="Given a online banking query, find the corresponding intents:",
    ),
    Task(
        name="mteb",
        kind=TaskKind.MTEB,
        title="MTEB(eng, v2)",
        metric="main_score",
        source="MTEB(eng, v2)",
        licence="each task's own",
        revision="as pinned by mteb",
    ),
    Task(
        name="mteb-lite",
        kind=TaskKind.MTEB,
        title="MTEB-Lite, the paper's ten tasks",
        metric="main_score",
        source="MTEB(eng, v2)",
        licence="each task's own",
        revision="as pinned by mteb",
        members=MTEB_LITE,
    ),
    Task(
        name="bright",
        kind=TaskKind.MTEB,
        title="BRIGHT(v1.1)",
        metric="main_score",
        source="BRIGHT(v1.1)",
        licence="each task's own",
        revision="as pinned by mteb",
    ),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
"""Every task by name."""

LOCAL_TASKS = tuple(task.name for task in _ALL if task.kind is not TaskKind.MTEB)
"""Those that a data folder is enough for."""


def find_task(name: str) -> Task:
    """A task by name.

    Raises:
        InputError: there is none of that name; the message lists them.
    """
    if name not in TASKS:
        raise InputError(f"expected a task out of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]
