"""Write the measured part of docs/scale.md and its picture from the result files in ``benchmarks/results/index``.

python benchmarks/index/tables.py            # after a benchmark has run
python benchmarks/index/tables.py --check    # exit code 1 where the document differs
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.index.measuring import RESULTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "scale.md"
PICTURE = "images/index-growth.svg"
_BLOCK = re.compile(r"<!-- index results -->\n.*?<!-- end of index results -->", re.DOTALL)

Result = Mapping[str, Any]


def render(document: str, results: Mapping[str, Result]) -> str:
    """The document with what ``results``, by name of file, say between its markers."""
    parts = [
        section(results[name])
        for name, section in (("build", build), ("search", search), ("vectors", vectors), ("growth", growth))
        if name in results
    ]
    block = "\n\n".join(parts) or "*Nothing was measured yet.*"
    return _BLOCK.sub(lambda _: f"<!-- index results -->\n\n{block}\n\n<!-- end of index results -->", document)


def build(result: Result) -> str:
    """One sentence on building from texts."""
    return (
        f"**From texts** ({result['documents']:,} documents, {result['encoder']}, threads: {result['threads']}): "
        f"{result['documents_per_second']:,} documents a second, {result['ratio']:.3f} times the time of bare `encode` "
        f"and `add` (goal: at most {result['goal']}); in the median of {len(result['seconds']['ours'])} lots "
        f"{result['median_ratio_of_lots']:.3f} times, in processor time "
        f"{result['ratio_of_processor_time']:.3f}.\n\n{_origin(result)}"
    )


def search(result: Result) -> str:
    """A table of latencies."""
    lines = [
        f"**Searching** vectors of {result['dimension']} dimensions, documents fetched; median milliseconds, threads:",
        f"{result['threads']}. Goal: at most {result['goal_over_faiss']} times bare FAISS, which fetches no documents",
        "and whose scores are its codes', opened the same way; and below 1 against LangChain, whose store is in memory",
        "and flat whatever kind ours is, and stands beside ours as it is opened by default, memory-mapped.",
        "",
        "| kind | vectors | queries | k | FAISS, memory | ours | ratio | FAISS, mapped | ours | ratio | LangChain | |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in result["sizes"]:
        for row in size["rows"]:
            times = row["milliseconds"]["clock"]
            ways = "".join(
                f"| {times[f'faiss, {way}']:.2f} | {times[f'ours, {way}']:.2f} | {row['over_faiss'][way]['clock']:.3f} "
                for way in ("in memory", "memory-mapped")
            )
            lines.append(
                f"| `{size['factory']}` | {size['vectors']:,} | {row['queries']} | {row['k']} "
                f"{ways}| {times['langchain']:.2f} | {row['over_langchain']['clock']:.3f} |"
            )
    return "\n".join([*lines, "", _origin(result)])


def vectors(result: Result) -> str:
    """A table of sizes."""
    bound = f"{result['sizes'][0]['memory_bound'] / 1e9:g} GB"
    columns = ["vectors", "kind", "ours, s", "bare, s", "ratio", f"within {bound}, s", "peak MB", "bare, MB"]
    columns += ["`Flat` with documents, s", "open, ms", "resident", "verified, ms", "resident"]
    lines = [
        f"**From ready-made vectors** of {result['dimension']} dimensions, into an inverted file, threads:",
        f"{result['sizes'][0]['ours']['threads']}; ours from a stream on the disk, without a bound on memory and",
        f"within {bound}, bare FAISS from an array. The last five are an index of ours with its documents, of a line",
        "each: built, opened memory-mapped with `verify=False`, and opened as by default, every byte of it compared;",
        "the system had its files in memory still, as after a build. Medians of several rounds, in turns.",
        "",
        f"| {' | '.join(columns)} |",
        "|---:|---|" + "---:|" * (len(columns) - 2),
    ]
    for row in result["sizes"]:
        ours, bounded, bare, opening = row["ours"], row["ours_bounded"], row["faiss"], row["opening"]
        verified = row["verified_opening"]
        lines.append(
            f"| {row['vectors']:,} | `{row['factory']}` | {ours['seconds']:.1f} | {bare['seconds']:.1f} "
            f"| {row['time_over_faiss']:.2f} | {bounded['seconds']:.1f} | {bounded['peak_bytes'] / 1e6:,.0f} "
            f"| {bare['peak_bytes'] / 1e6:,.0f} | {row['flat_index_with_documents_seconds']:.1f} "
            f"| {1_000 * opening['seconds']:.0f} | {100 * opening['resident_share_of_file']:.1f} % of the file "
            f"| {1_000 * verified['seconds']:.0f} | {100 * verified['resident_share_of_file']:.1f} % |"
        )
    return "\n".join([*lines, "", _origin(result)])


def _origin(result: Result) -> str:
    source = result["provenance"]
    return f"<sub>{source['cpu'] or 'an unnamed processor'}; commit {(source['commit'] or 'unknown')[:10]}.</sub>"


def picture(result: Result) -> str:
    """Seconds and bytes by number of vectors, both axes logarithmic; the dashed line grows as the number does."""
    panels: list[tuple[str, str, Callable[[Any, str], float]]] = [
        ("seconds", "ours", lambda row, side: row[side]["seconds"]),
        ("peak memory, MB", "ours_bounded", lambda row, side: max(row[side]["peak_bytes"] / 1e6, 1)),
    ]
    drawn = []
    for title, own, value in panels:
        sides = {"ours": own, "faiss": "faiss"}
        lines = {name: [(row["vectors"], value(row, side)) for row in result["sizes"]] for name, side in sides.items()}
        drawn.append(Panel(title, lines, proportional=True))
    return chart("Time and memory by number of vectors", drawn)


def exponents(result: Result, value: Callable[[Any], float]) -> list[float]:
    """With which power of their number something grows, between neighbouring sizes: 1 is linear."""
    return [
        math.log(value(two) / value(one)) / math.log(two["vectors"] / one["vectors"])
        for one, two in pairwise(result["sizes"])
    ]


def growth(result: Result) -> str:
    """A table of powers, and the picture."""
    rows: list[tuple[str, Callable[[Any], float]]] = [
        ("seconds, ours", lambda row: row["ours"]["seconds"]),
        ("seconds, bare FAISS", lambda row: row["faiss"]["seconds"]),
        ("peak memory, ours within its bound", lambda row: row["ours_bounded"]["peak_bytes"]),
        ("seconds, `Flat` with documents", lambda row: row["flat_index_with_documents_seconds"]),
    ]
    steps = [f"{one['vectors']:,} to {two['vectors']:,}" for one, two in pairwise(result["sizes"])]
    lines = [
        f"**As their number grows**, at one kind, `{result['sizes'][-1]['factory']}`: the power of the number of",
        "vectors that each figure grows with, 1 being linear.",
        "",
        f"| | {' | '.join(steps)} |",
        "|---|" + "---:|" * len(steps),
        *(f"| {name} | {' | '.join(f'{power:.2f}' for power in exponents(result, value))} |" for name, value in rows),
        "",
        "Ours takes "
        + ", ".join(f"{row['time_over_faiss']:.2f}" for row in result["sizes"])
        + " times bare FAISS's seconds there, in processor time "
        + ", ".join(f"{row['processor_time_over_faiss']:.2f}" for row in result["sizes"])
        + ".",
    ]
    return "\n".join([*lines, "", f"![time and memory by number of vectors]({PICTURE})", "", _origin(result)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0 done, 1 the document differs (``--check``)."""
    parser = argparse.ArgumentParser(description="Write the measured part of docs/scale.md.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the document differs")
    options = parser.parse_args(arguments)
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(options.results.glob("*.json"))}
    wanted = {options.document: render(options.document.read_text("utf-8"), found)}
    if "growth" in found:
        wanted[options.document.parent / PICTURE] = picture(found["growth"])
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        if options.check:
            print(f"{path} is not what the results say; run: python benchmarks/index/tables.py", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
