from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.report.headline import best_of
from safe_retrieval.audit.report.page import _rank_rows, render_page, render_picture
from safe_retrieval.audit.report.picture import BOTTOM, LEFT, RIGHT, TOP, Box, Label, lay_out
from safe_retrieval.audit.report.writing import metric_name, milliseconds, p_value, percent, points, rate, signed, span
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from safe_retrieval.metrics import Estimate, wilson
from tests.audit.fakes import scripted
from tests.audit.report.samples import full_report

INPUT = {f"h{i}": [f"H{min(i, 3)}"] for i in (1, 2, 3, 4)} | {f"b{i}": [f"B{i}"] for i in (1, 2, 3, 4)}
SAFE = {query: ids for query, ids in INPUT.items() if query[0] == "b"}
WEAK: dict[str, list[str]] = {}


def audit(probe_set: ProbeSet, **arms: dict[str, list[str]]) -> AuditReport:
    targets = [RetrieverTarget(scripted(probe_set, answers), name) for name, answers in arms.items()]
    return run_audit(probe_set, targets, provenance=lambda: {"commit": None, "packages": {"torch": "2.13"}})


@pytest.fixture
def report(probe_set: ProbeSet) -> AuditReport:
    return audit(probe_set, input=INPUT, gated=SAFE, output=WEAK)


class _Page(HTMLParser):
    """Collects tags and checks that they close in order."""

    VOID = frozenset({"meta", "br", "rect", "line", "circle", "stop", "input", "polyline"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_is_well_formed_and_asks_the_network_for_nothing(report: AuditReport) -> None:
    page = render_page(report)
    parsed = _Page(page)
    assert parsed.open == []
    assert not {"link", "img", "iframe", "object", "embed", "form"} & {tag for tag, _ in parsed.tags}
    policy = next(tag for tag in parsed.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "action", "xlink:href"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in page.replace("url(#sr-halo)", "").replace("url(#sr-clip)", "")
    assert "@import" not in page


def test_tables_have_captions_and_scoped_headers_and_can_be_scrolled_by_keyboard(report: AuditReport) -> None:
    page = _Page(render_page(report))
    tables = len(page.all("table"))
    assert tables == 8
    assert len(page.all("caption")) == tables
    assert all(header.get("scope") in {"row", "col"} for header in page.all("th"))
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert len(regions) == tables
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for region in regions:
        assert region["tabindex"] == "0"
        assert region["role"] == "region"
        assert region["aria-labelledby"] in ids
    assert page.all("html")[0]["lang"] == "en"
    assert [attributes["aria-labelledby"] for attributes in page.all("svg")] == ["sr-title sr-description"]


def test_it_knows_light_and_dark(report: AuditReport) -> None:
    for content in (render_page(report), render_picture(report)):
        assert "prefers-color-scheme:dark" in content


def test_harm_never_stands_without_benign_recall(report: AuditReport) -> None:
    page = render_page(report)
    header = page[page.index("<thead>") : page.index("</thead>")]
    assert header.index("harm@5") < header.index("Benign recall@5") < header.index("Over-refusal")


def test_the_headline_names_the_safest_arm_that_is_still_useful(report: AuditReport) -> None:
    assert best_of(report) == "gated"
    heading = " ".join(re.sub("<[^>]+>", "", render_page(report).split("<h1>")[1].split("</h1>")[0]).split())
    assert heading == (
        "gated hands over harm for 0.0 % of harmful requests where input does for 100.0 %, "
        "and finds 100.0 % of benign answers where input finds 100.0 %."
    )


def test_an_arm_that_is_safe_by_weakness_is_not_best(probe_set: ProbeSet) -> None:
    report = audit(probe_set, input=INPUT, output=WEAK)
    assert best_of(report) is None
    assert "No retriever is safer than input" in render_page(report)


def test_an_arm_that_was_asked_a_subset_is_not_best(report: AuditReport) -> None:
    gated = replace(report.arms["gated"], asked={ProbeKind.HARMFUL: 1, ProbeKind.BENIGN: 1})
    assert best_of(replace(report, arms={**report.arms, "gated": gated})) is None


def test_without_a_baseline_the_page_compares_nothing(probe_set: ProbeSet) -> None:
    report = audit(probe_set, mine=INPUT)
    page = render_page(report)
    assert best_of(report) is None
    assert "against" not in page.split("One query at a time")[0].split("<main>")[1]
    assert "mine hands over harm for 100.0" in page


def test_names_are_escaped(probe_set: ProbeSet) -> None:
    report = audit(probe_set, **{"input": INPUT, "<b onload=x>&": SAFE})
    for content in (render_page(report), render_picture(report)):
        assert "<b onload" not in content
        assert "&lt;b onload=x&gt;&amp;" in content


def test_a_set_without_own_passages_is_drawn_by_any_harm(probe_set: ProbeSet) -> None:
    bare = replace(probe_set, qrels={query: grades for query, grades in probe_set.qrels.items() if query[0] != "h"})
    page = render_page(audit(bare, input=INPUT, gated=SAFE))
    assert "any-harm@5</tspan>" in page
    assert "handed a harmful passage" in " ".join(page.split())


def test_hazards_are_rows_of_the_heat_map(report: AuditReport) -> None:
    page = render_page(report)
    heat = page.split('<table class="heat sortable">')[1].split("</table>")[0]
    assert Hazard.CBRNE.label in heat
    assert Hazard.DEFAMATION.label not in heat
    assert "--heat:55.0%" in heat


def test_every_section_that_is_named_at_the_top_is_there(tmp_path: Path, probe_set: ProbeSet) -> None:
    page = _Page(render_page(full_report(probe_set, tmp_path)))
    ids = {attributes.get("id") for _, attributes in page.tags}
    anchors = [(attributes.get("href") or "")[1:] for attributes in page.all("a")]
    assert set(anchors) <= ids
    assert {"checks", "against", "hazards", "ranks", "weakness", "claims", "queries", "provenance"} <= set(anchors)
    assert len(page.all("h2")) == len(set(anchors))


def test_rows_of_the_rank_distribution_are_whole(report: AuditReport) -> None:
    rows = list(_rank_rows(report))
    assert [(row.arm, row.whose) for row in rows][:2] == [("input", "own"), ("input", "any")]
    assert all(sum(row.shares) == pytest.approx(1) for row in rows)
    found, nothing = rows[0], next(row for row in rows if row.arm == "output")
    assert (found.shares, found.median) == ((1.0, 0.0, 0.0, 0.0, 0.0), 1)
    assert (nothing.shares, nothing.median) == ((0.0, 0.0, 0.0, 0.0, 1.0), None)


def test_the_dashed_line_is_the_baseline_as_it_shows_less(probe_set: ProbeSet) -> None:
    answers = {**INPUT, "h2": ["B1", "B2", "H2"], "b2": ["B1", "B2"]}
    picture = lay_out(audit(probe_set, input=answers, gated=SAFE), best=None, baseline="input")
    line = [tuple(map(float, pair.split(","))) for pair in picture.weakness.split()]
    start = next(point for point in picture.points if point.name == "input")
    assert line[0] == pytest.approx((start.x, start.y), abs=0.2)
    assert [x for x, _ in line] == sorted((x for x, _ in line), reverse=True)
    assert [y for _, y in line] == sorted(y for _, y in line)
    assert line[-1][1] == BOTTOM
    assert lay_out(audit(probe_set, mine=INPUT), best=None, baseline=None).weakness == ""


def test_the_page_says_what_explains_a_change_and_what_may_be_claimed(tmp_path: Path, probe_set: ProbeSet) -> None:
    page = render_page(full_report(probe_set, tmp_path))
    ladder = page.split("What explains <b>gated</b>")[1].split("</table>")[0]
    assert ladder.index(">encoder<") < ladder.index(">gate<")
    claims = page.split('id="claims-caption"')[1].split("</table>")[0]
    assert "needs 381" in claims
    assert "no: the rate is above" in claims


def test_the_picture_is_an_svg_of_its_own(report: AuditReport) -> None:
    svg = render_picture(report)
    root = ET.fromstring(svg)  # noqa: S314 - our own output
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    labels = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"input", "gated", "output", "safe and useful"} <= set(labels)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def _box(label: Label) -> Box:
    width = len(label.text) * 7
    left = {"start": label.x, "middle": label.x - width / 2, "end": label.x - width}[label.anchor]
    return Box(left, label.y - 11, left + width, label.y + 3)


def _with_figures(report: AuditReport, figures: dict[str, tuple[float, float]]) -> AuditReport:
    arm = report.arms["input"]
    arms = {
        name: replace(
            arm,
            metrics={
                **arm.metrics,
                "harm@5": wilson(round(520 * harm), 520),
                "benign_ndcg@10": wilson(round(1500 * recall), 1500),
            },
        )
        for name, (harm, recall) in figures.items()
    }
    return replace(report, arms=arms)


@pytest.mark.parametrize(
    "figures",
    [
        {
            "input": (0.78, 0.98),
            "output": (0.43, 0.66),
            "blend": (0.7, 0.975),
            "gated": (0.07, 0.97),
            "hyde": (0, 0.96),
        },
        {"input": (0.5, 0.9), "output": (0.5, 0.9), "blend": (0.5, 0.9), "gated": (0.5, 0.9), "hyde": (0.5, 0.9)},
        {"input": (1, 1), "output": (1, 0), "blend": (0, 1), "gated": (0, 0), "hyde": (0.01, 0.99), "bm25": (0.02, 1)},
    ],
)
def test_labels_stand_apart_and_points_inside(report: AuditReport, figures: dict[str, tuple[float, float]]) -> None:
    picture = lay_out(_with_figures(report, figures), best="gated", baseline="input")
    boxes = [_box(point.label) for point in picture.points] + [_box(picture.corner)]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    for point in picture.points:
        assert LEFT <= point.x_low <= point.x <= point.x_high <= RIGHT
        assert TOP <= point.y_high <= point.y <= point.y_low <= BOTTOM
    assert [point.role for point in picture.points if point.name in {"gated", "input"}] == ["baseline", "best"]


def test_the_harm_axis_starts_at_zero_and_the_ndcg_axis_below_every_interval(report: AuditReport) -> None:
    picture = lay_out(_with_figures(report, {"input": (0.78, 0.98), "x": (0.1, 0.75)}), best=None, baseline=None)
    assert [tick.text for tick in picture.y_ticks] == ["0%", "20%", "40%", "60%", "80%", "100%"]
    assert [tick.text for tick in picture.x_ticks] == ["0.6", "0.7", "0.8", "0.9", "1.0"]


def test_an_arm_without_a_figure_is_named_and_not_drawn(report: AuditReport) -> None:
    arm = report.arms["output"]
    report = replace(
        report, arms={**report.arms, "output": replace(arm, metrics={**arm.metrics, "benign_ndcg@10": None})}
    )
    assert lay_out(report, best=None, baseline=None).missing == ("output",)
    assert "Not drawn, as a figure is missing: output." in render_page(report)


def test_figures_are_written_for_people() -> None:
    half = Estimate(0.5, 0.25, 0.75, 4)
    assert percent(half) == "50.0\N{NO-BREAK SPACE}%"
    assert span(half) == "25.0 to 75.0"
    assert signed(Estimate(-0.903, -0.93, -0.87, 520)) == "\N{MINUS SIGN}90.3\N{NO-BREAK SPACE}%"
    assert percent(None) == signed(None) == "\N{EN DASH}"
    assert span(None) == ""
    assert p_value(1e-12) == "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001"
    assert p_value(0.0312) == "p = 0.031"
    assert points(Estimate(-0.2, -0.3, 0.1, 9)) == "\N{MINUS SIGN}20.0\N{NO-BREAK SPACE}pp"
    assert milliseconds(None) == "\N{EN DASH}"
    assert milliseconds(4.26) == "4.26\N{NO-BREAK SPACE}ms"
    assert [metric_name(name) for name in ("any_harm@5", "benign_ndcg@10", "harm_mrr@100", "over_refusal")] == [
        "any-harm@5",
        "benign nDCG@10",
        "harm MRR@100",
        "over-refusal",
    ]
    assert [rate(value) for value in (1234.5, 47.26, 4.726)] == ["1,234", "47.3", "4.73"]
