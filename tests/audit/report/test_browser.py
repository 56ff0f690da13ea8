"""The page in a real browser: quiet, offline, usable by keyboard, accessible, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from safe_retrieval.audit.report import ReportFolder
from tests.audit.fakes import make_probe_set
from tests.audit.report.samples import full_report
from tests.support.browser import accessibility_faults, chromium, opened

CHOOSE = "document.querySelector('.pick').click()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, probe_set = tmp_path_factory.mktemp("report"), make_probe_set()
    report = full_report(probe_set, folder / "earlier")
    for name, reveal in (("now", None), ("revealed", probe_set)):
        with ReportFolder(folder / name) as written:
            written.write(report, reveal=reveal)
    return folder / "now" / "index.html"


def column(page: Page, table: str, place: int) -> list[str]:
    cells = page.locator(f"table:has(caption#{table}) tbody tr > :nth-child({place})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


def heading(page: Page, table: str, place: int) -> tuple[str | None, str]:
    head = page.locator(f"table:has(caption#{table}) thead th:nth-child({place})")
    return head.get_attribute("aria-sort"), head.inner_text()


@pytest.mark.parametrize("name", ["now", "revealed"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_complaint_and_no_request_but_for_the_file_itself(
    browser: Browser, path: Path, scheme: str, name: str
) -> None:
    page = path.parent.parent / name / "index.html"
    with opened(browser, page, color_scheme=scheme) as seen:
        seen.page.locator(".pick").first.click()
        seen.page.wait_for_timeout(100)
        assert seen.complaints == []
        assert seen.requests == [page.as_uri()]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_fault(browser: Browser, path: Path, scheme: str, width: int) -> None:
    size = {"width": width, "height": 900}
    assert accessibility_faults(browser, path, prepare=CHOOSE, color_scheme=scheme, viewport=size) == []


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Browser, path: Path) -> None:
    with opened(browser, path, viewport={"width": 390, "height": 900}) as seen:
        seen.page.evaluate(CHOOSE)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(browser: Browser, path: Path) -> None:
    with opened(browser, path) as seen:
        page = seen.page
        assert column(page, "figures-caption", 1) == ["input", "output", "gated"]
        button = page.locator("table:has(caption#figures-caption) thead th:nth-child(2) button")
        button.click()
        assert column(page, "figures-caption", 1) == ["gated", "output", "input"]
        assert heading(page, "figures-caption", 2)[0] == "ascending"
        button.focus()
        page.keyboard.press("Enter")
        assert column(page, "figures-caption", 1) == ["input", "output", "gated"]
        assert heading(page, "figures-caption", 2)[0] == "descending"
        page.locator("table:has(caption#figures-caption) thead th:nth-child(1) button").click()
        assert column(page, "figures-caption", 1) == ["gated", "input", "output"]
        assert heading(page, "figures-caption", 2)[0] is None


def test_what_was_not_measured_stays_last_either_way(browser: Browser, path: Path) -> None:
    with opened(browser, path) as seen:
        button = seen.page.locator("table:has(caption#figures-caption) thead th:nth-child(7) button")
        for _ in range(2):
            button.click()
            assert column(seen.page, "figures-caption", 1)[0] == "gated"  # the others have no gate


def test_a_query_shows_both_answers_side_by_side_with_ids_and_scores(browser: Browser, path: Path) -> None:
    with opened(browser, path) as seen:
        page = seen.page
        page.locator(".pick", has_text="h2").click()
        assert page.evaluate("document.activeElement.textContent") == "h2"
        panels = page.locator(".sides > div")
        assert panels.count() == 2
        left, right = panels.all_inner_texts()
        assert "input" in left
        assert "H2" in left
        assert "0.9000" in left
        assert "harmful, written for this request" in left
        assert "gated" in right
        assert "gate fired" in right
        assert "nothing was returned" in right
        page.locator("select[name=right]").select_option(label="output")
        assert "H2" in panels.nth(1).inner_text()
        boxes = [panels.nth(place).bounding_box() for place in (0, 1)]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["y"] == boxes[1]["y"]


def test_queries_are_found_filtered_and_sorted(browser: Browser, path: Path) -> None:
    with opened(browser, path) as seen:
        page, count = seen.page, seen.page.locator("#drill-count")
        assert count.inner_text() == "1 to 10 of 10 queries"
        page.locator("select[name=show]").select_option("left")
        assert page.locator(".pick").all_inner_texts() == ["h1", "h2", "h3", "h4"]  # the gate holds them all back
        page.locator("select[name=show]").select_option("all")
        page.locator("select[name=kind]").select_option("benign")
        assert count.inner_text() == "1 to 4 of 4 queries"
        page.locator("input[name=find]").fill("B3")
        assert page.locator(".pick").all_inner_texts() == ["b3"]
        page.locator("input[name=find]").fill("nowhere")
        assert count.inner_text() == "No query matches."
        page.locator("input[name=find]").fill("")
        page.locator("select[name=kind]").select_option("")
        page.locator(".drill thead th:nth-child(5) button").click()
        assert page.locator(".drill thead th:nth-child(5)").get_attribute("aria-sort") == "ascending"
        assert page.locator(".pick").first.inner_text() == "b1"


def test_without_scripts_the_tables_are_there_and_no_dead_control(browser: Browser, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as seen:
        assert seen.page.locator("table").first.is_visible()
        assert seen.page.locator("button:visible, select:visible, input:visible").count() == 0
        assert seen.page.locator("noscript").inner_text()


def test_light_and_dark_differ_and_paint_the_whole_page(browser: Browser, path: Path) -> None:
    papers = set()
    for scheme in ("light", "dark"):
        with opened(browser, path, color_scheme=scheme) as seen:
            papers.add(seen.page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert len(papers) == 2


def test_revealed_text_stands_under_a_warning(browser: Browser, path: Path) -> None:
    with opened(browser, path.parent.parent / "revealed" / "index.html") as seen:
        page = seen.page
        assert page.title().startswith("REVEALED")
        assert page.locator("[role=note]").is_visible()
        page.locator(".pick", has_text="h2").click()
        assert "request wording two" in page.locator("#drill-detail").inner_text()
        assert "passage words of H2" in page.locator("#drill-detail").inner_text()
