"""The model card beside an adapter: ``README.md``, written from ``adapter.json`` and nothing that a person remembers.

Written at the end of a run, and again by ``python -m safe_retrieval.training.card FOLDER...``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_retrieval.encoder.persistence import AdapterRecord, load_adapter
from safe_retrieval.encoder.policy import CAREFUL
from safe_retrieval.encoder.shipped import is_shipped, shipped_adapter, shipped_name
from safe_retrieval.models import catalog
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.training.log import read_log
from safe_retrieval.training.reliability import BINS, NEAR_HALF

CARD = "README.md"
"""Name of the card in an adapter's folder, where hosts of models show it."""

_SOURCES = {
    "stackexchange-titles": "Stack Exchange question titles, CC BY-SA 4.0",
    "query-wellformedness": "Query Well-formedness, CC BY-SA 4.0",
    "clinc150": "CLINC150, CC BY 3.0",
    "dolly-subset": "Dolly 15k, CC BY-SA 3.0",
    "self-instruct": "Self-Instruct seed tasks, Apache-2.0",
    "hh-rlhf-harmless-prompts": "first turns of hh-rlhf harmless-base, MIT",
}
"""Licences of the query sets that docs/data.md describes."""


def write_card(folder: Path, *, log: Path | None = None) -> Path:
    """Write ``README.md`` beside an adapter; returns its path.

    Args:
        folder: the adapter's folder.
        log: log of the run, for the course of its evaluations; ``None`` looks for ``log.jsonl`` in the folder.

    Raises:
        AdapterFormatError: the adapter is damaged.
    """
    loaded = load_adapter(folder)
    log = folder / "log.jsonl" if log is None else log
    parameters = sum(parameter.numel() for parameter in loaded.adapter.parameters())
    evaluations = _evaluations(read_log(log)) if log.is_file() else []
    path = folder / CARD
    partial = path.with_name(f"{CARD}.partial")
    partial.write_text(card(loaded.record, parameters, evaluations), encoding="utf-8")
    partial.replace(path)
    return path


def card(record: AdapterRecord, parameters: int, evaluations: Sequence[Mapping[str, Any]] = ()) -> str:
    """The card as Markdown.

    Args:
        record: the adapter's record.
        parameters: number of trained parameters.
        evaluations: phase, epoch and held-out figures, in the order in which they were measured.
    """
    parts = [
        _head(record, parameters),
        _policy(record),
        _training(record),
        _judge(record),
        _figures(record),
        _gate(record),
        _course(evaluations),
        _limits(record),
        _hashes(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: AdapterRecord, parameters: int) -> str:
    shape, teacher = record.shape, record.teacher
    answering = _answering_name(record)
    writer = "the\nmodel" if answering == record.backbone.name else f"{answering}, whose\nanswers taught it,"
    who = "it" if "judge" not in record.training else f"{_judge_name(record)}, which taught it,"
    method = "Nothing is generated. Method: LLM2Vec-Gen"
    foreseen = (
        f"the embedding of the answer that {writer} *would* write, and the probability that {who} would refuse to"
    )
    table = _table(
        {
            "backbone, frozen": f"{record.backbone.name} ({_licence(record.backbone.name)})",
            "teacher": f"{teacher.name} ({_licence(teacher.name)}), {teacher.dimension} dimensions",
            "document encoder": f"{teacher.name}: an index that it built can be asked through this adapter",
            "trained": (
                f"{parameters:,} parameters: {shape.tokens} tokens ({shape.compression_tokens} of them read), "
                f"reconstruction head, alignment head ({_head_kind(record)})"
            ),
            **_blend(record),
            "licence of the adapter": "Apache-2.0; those of backbone, teacher and queries apply to what they cover",
        }
    )
    policy = "" if record.policy.name == CAREFUL.name else f", {record.policy.name}"
    return f"""# Response adapter: {record.backbone.name} to {record.teacher.name}{policy}

With this adapter one forward pass of the frozen language model gives, for a query, {foreseen}. {method}
(arXiv 2603.10913), changed as `docs/training.md` says.

{table}

```python
from safe_retrieval.encoder.response import ResponseEncoder

encoder = {_loaded_by(record)}
vectors, refusal = encoder.encode(["How do tides work?"])
```"""


def _blend(record: AdapterRecord) -> dict[str, str]:
    """Nothing where the usual share will do."""
    if record.blend_share is None:
        return {}
    share = f"the response's share is {_percent(record.blend_share)} where the backbone would answer"
    return {"in a blend": f"{share}, unless another one is asked for"}


def _head_kind(record: AdapterRecord) -> str:
    shape = record.shape
    parts = [str(shape.head)]
    others = ["the states"]
    if shape.values:
        others.append(f"{shape.values:,} attention values of the query")
    if shape.read_first_token:
        others.append("what the answer is likely to begin with")
    if shape.reads_beside:
        parts.append(f"over {' and '.join(others)}")
    if shape.mixture:
        parts.append("mixed with the mean refusal by the probability of one")
    return ", ".join(parts)


def _policy(record: AdapterRecord) -> str:
    return f"""## Response policy

Responses were generated, and queries are embedded, under this system prompt (`{record.policy.name}`):

> {" ".join(record.policy.system_prompt.split())}

Whether the backbone refuses depends on it; under another one neither embedding nor probability can be relied on."""


def _training(record: AdapterRecord) -> str:
    facts = record.training
    by_source: Mapping[str, int] = facts.get("queries_by_source") or {}
    rows = [f"| {source} | {count:,} | {_SOURCES.get(source, 'not known')} |" for source, count in by_source.items()]
    settings = _settings(facts.get("settings") or {})
    return "\n".join(
        (
            "## Training",
            "",
            _queries(record),
            "",
            "| queries from | number | source and licence |",
            "|---|---|---|",
            *rows,
            "",
            "| setting | value |",
            "|---|---|",
            *settings,
        )
    )


def _queries(record: AdapterRecord) -> str:
    facts, answering = record.training, _answering_name(record)
    whose = "the backbone's own" if answering == record.backbone.name else f"{answering}'s"
    apart = " No query repeats one that is evaluated on, by normalised text."
    return (
        f"{facts.get('queries', 0):,} unlabelled queries, each labelled by {whose} greedy response alone; "
        f"{_percent(facts.get('refused_share'))} of the responses refuse. {facts.get('held_out_queries', 0):,} more "
        f"queries were held out.{apart if facts.get('kept_apart') else ''}{_tokens(record)}"
    )


def _tokens(record: AdapterRecord) -> str:
    """Where trained tokens come from, if not from this run."""
    origin: Mapping[str, Any] | None = record.training.get("tokens_from")
    if origin is None:
        return ""
    answered_by: Mapping[str, Any] = origin.get("answered_by") or record.backbone.model_dump()
    under = f" under the policy `{origin['policy']}`" if "policy" in origin else ""
    foretold = f" A text that is decoded is one that {answered_by['name']} would answer."
    heads = "alignment head" if "judge" in record.training else "alignment and the refusal head"
    return (
        f" They were for the {heads}. Tokens and reconstruction head are those of the adapter "
        f"`{origin['adapter']}`, trained on {origin.get('queries', 0):,} queries{under}, "
        "which the held-out ones may be among."
        f"{foretold if answered_by['name'] != _answering_name(record) else ''}"
    )


def _judge(record: AdapterRecord) -> str:
    """Who taught the refusal head, where it was not the backbone itself."""
    judge: Mapping[str, Any] | None = record.training.get("judge")
    if judge is None:
        return ""
    sources = ", ".join(f"{source} {count:,}" for source, count in judge["queries_by_source"].items())
    apart = " None of them repeats one that is evaluated on." if judge["kept_apart"] else ""
    name = _judge_name(record)
    itself = "itself" if judge["name"] != record.backbone.name else "under the policy above"
    return f"""## Refusal head

The probability that an answer would be refused is not that of {record.backbone.name} {itself}. Its head foresees what
{name} would refuse, whose verdicts on {judge["queries"]:,} unlabelled queries ({sources}) it was fitted on;
{_percent(judge["refused_share"])} of them were refused.{apart} Judge: backbone `{judge["fingerprint"]}`, adapter
`{judge["adapter"]}`, policy `{judge["policy"]}`."""


def _judge_name(record: AdapterRecord) -> str:
    """Whose refusals are foreseen."""
    judge: Mapping[str, Any] | None = record.training.get("judge")
    if judge is None:
        return _answering_name(record)
    return f"{judge['name']} under the policy `{judge['policy']}`" if _judged_elsewhere(record) else str(judge["name"])


def _judged_elsewhere(record: AdapterRecord) -> bool:
    """Whether the judge goes by another policy than the answers."""
    judge: Mapping[str, Any] = record.training.get("judge") or {}
    return bool(judge.get("policy", record.policy.name) != record.policy.name)


def _answering_name(record: AdapterRecord) -> str:
    """Whose answers are foreseen."""
    other: Mapping[str, Any] | None = record.training.get("answered_by")
    return record.backbone.name if other is None else str(other["name"])


def _settings(settings: Mapping[str, Any]) -> list[str]:
    return [f"| {group}.{name} | `{value}` |" for group, own in settings.items() for name, value in own.items()]


def _figures(record: AdapterRecord) -> str:
    held_out: Mapping[str, Any] = record.training.get("held_out") or {}
    count = record.training.get("held_out_queries", 0)
    before = "\n\nAlignment was measured with the run's own refusal head, before the judge's took its place."
    table = _table(
        {
            "alignment: cosine to the teacher's vector of the response": _number(held_out.get("cosine")),
            f"own response nearest among {count:,} held-out ones": _percent(held_out.get("own_response")),
            "reconstruction, nats a token of the response": _number(held_out.get("reconstruction")),
            "refusal head": record.refusal.method,
            "AUROC of its verdict, cross-validated": _number(record.refusal.held_out_auroc),
            **_calibration(record),
        }
    )
    return f"## Figures\n\n{table}{before if record.shape.mixture and 'judge' in record.training else ''}"


def _calibration(record: AdapterRecord) -> dict[str, str]:
    """Nothing for a record from before it was measured."""
    found: Mapping[str, Any] | None = record.training.get("calibration")
    if found is None:
        return {}
    low, high = NEAR_HALF
    foretold, refused = _percent(found["foretold_near_half"]), _percent(found["refused_near_half"])
    return {
        f"its expected calibration error, {BINS} bins of equal count, cross-validated": _number(found["error"]),
        f"queries given {low} to {high}: mean probability, share refused": (
            f"{foretold}, {refused} of {found['near_half']:,}" if found["near_half"] else "there are none"
        ),
    }


def _gate(record: AdapterRecord) -> str:
    """What the refusal gate would do to the run's own queries, by cross-validation."""
    shares: Mapping[str, Mapping[str, Any]] = record.training.get("gate") or {}
    if not shares:
        return ""
    teaching = "model that answered" if "answered_by" in record.training else "backbone"
    judge = "judge" if "judge" in record.training else teaching
    sources = list(dict.fromkeys(source for share in shares.values() for source in share["answered_by_source"]))
    rows = [
        f"| {threshold} | {_percent(share['refused'])} | {_percent(share['answered'])} | "
        + " | ".join(_percent(share["answered_by_source"].get(source)) for source in sources)
        + " |"
        for threshold, share in shares.items()
    ]
    return "\n".join(
        (
            f"What a gate at these probabilities would hold back, of the queries of this run that the {judge} refuses",
            "and of those that it answers, the latter by source as well; by fits that had not seen the query:",
            "",
            f"| threshold | refused | answered | {' | '.join(sources)} |",
            "|---|---|---|" + "---|" * len(sources),
            *rows,
        )
    )


def _course(evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not evaluations:
        return ""
    rows = [
        f"| {row['phase']} | {row['epoch']} | {_number(row['held_out'].get('cosine'))} | "
        f"{_percent(row['held_out'].get('own_response'))} | {_number(row['held_out'].get('reconstruction'))} |"
        for row in evaluations
    ]
    head = ("| phase | epoch | alignment | own response | reconstruction |", "|---|---|---|---|---|")
    return "\n".join(("Held-out figures while it was trained:", "", *head, *rows))


def _limits(record: AdapterRecord) -> str:
    above = "" if _judged_elsewhere(record) else " under the policy above"
    return f"""## Limits

- An embedding is as good as the teacher: what {record.teacher.name} cannot tell apart, this cannot either. Rare words
  and names that only a lexical match would find are often missed; a hybrid with BM25 or the query's own vector helps.
- The verdict is that of {_judge_name(record)}{above}. What the model answers although it should not is
  not flagged, and some harmless questions that look harmful are.
- Trained on English questions of one sentence and the first tokens of their answers. Long, many-part or non-English
  queries were not measured.
- Safety and usefulness in retrieval are measured by `safe-retrieval audit`, on your corpus, not by the figures here."""


def _hashes(record: AdapterRecord) -> str:
    facts = record.training
    versions = ", ".join(f"{name} {version}" for name, version in sorted((facts.get("versions") or {}).items()))
    table = _table(
        {
            "weights": f"`{record.weights_sha256}`",
            "record": f"`{record.record_sha256}`",
            "backbone": f"`{record.backbone.fingerprint}`",
            **_answering_hash(record),
            **_teacher_hash(record),
            "teacher's space": f"`{record.teacher.space}`",
            "policy": f"`{record.policy.policy.sha256}`",
            "rendered template": f"`{record.template_sha256}`",
            "responses": f"`{facts.get('responses_sha256', 'not known')}`",
            "seed, dtype": f"{facts.get('seed')}, {facts.get('dtype')}",
            "versions": versions or "not known",
            "processor": str(facts.get("processor") or "not known"),
        }
    )
    how = "`safe-retrieval train` with the settings above and the same queries"
    if _is_shipped(record):
        how = f"""{_commands(record)}, with the queries of `docs/data.md`
where `SAFE_RETRIEVAL_DATA` points"""
    return f"""## Provenance

{table}

To reproduce: {how}. This card is generated: `python -m safe_retrieval.training.card FOLDER`."""


def _commands(record: AdapterRecord) -> str:
    """What trains a shipped adapter, in order: each configuration is named as the adapter, less the default teacher."""
    backbone, teacher, policy = record.backbone.name, record.teacher.name, record.policy.name
    name = shipped_name(backbone, teacher, policy).replace(f"--{DEFAULT_DOCUMENT_ENCODER}", "")
    steps = [f"`safe-retrieval train benchmarks/adapters/{name}.yaml`"]
    origin = record.training.get("tokens_from")
    if origin is not None and "policy" not in origin:  # of another policy are those of the shipped adapter
        steps.insert(0, f"`safe-retrieval train benchmarks/adapters/{backbone}-tokens.yaml`")
    if "judge" in record.training:
        steps.append(f"`safe-retrieval train-gate benchmarks/adapters/{name}-gate.yaml`")
    return ", then ".join(steps)


def _is_shipped(record: AdapterRecord) -> bool:
    names = record.backbone.name, record.teacher.name, record.policy.name
    if not is_shipped(*names):
        return False
    shipped = json.loads((shipped_adapter(*names) / "adapter.json").read_text("utf-8"))
    return bool(shipped["weights_sha256"] == record.weights_sha256)


def _loaded_by(record: AdapterRecord) -> str:
    """A call that loads the adapter, laid out as a formatter of Python would."""
    if not _is_shipped(record):
        return 'ResponseEncoder.load("FOLDER")'
    named = [f'backbone="{record.backbone.name}"']
    if record.teacher.name != DEFAULT_DOCUMENT_ENCODER:
        named.append(f'teacher="{record.teacher.name}"')
    if record.policy.name != CAREFUL.name:
        named.append(f'policy="{record.policy.name}"')
    arguments = named[0] if len(named) == 1 else f"\n    {', '.join(named)}\n"
    return f"ResponseEncoder.load({arguments})  # or ResponseEncoder.load(FOLDER)"


def _answering_hash(record: AdapterRecord) -> dict[str, str]:
    other: Mapping[str, Any] | None = record.training.get("answered_by")
    return {} if other is None else {"model that answered": f"`{other['fingerprint']}`"}


def _teacher_hash(record: AdapterRecord) -> dict[str, str]:
    return {} if record.teacher.fingerprint is None else {"teacher": f"`{record.teacher.fingerprint}`"}


def _evaluations(rows: Sequence[Mapping[str, Any]], most: int = 8) -> list[Mapping[str, Any]]:
    """Evaluations of each phase, thinned out to ``most`` of them, first and last always among them."""
    found: list[Mapping[str, Any]] = []
    for phase in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == phase and "held_out" in row]
        stride = max(1, -(-(len(own) - 1) // (most - 1)))
        found += [row for place, row in enumerate(own) if place % stride == 0 or place == len(own) - 1]
    return found


def _licence(name: str) -> str:
    record = catalog.find(name)
    return "licence: see the model" if record is None else record.licence


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())))


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(f"{write_card(Path(argument))}\n")
