"""The page of all runs: a row each, the newest first, whatever state their reports are in."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from flows.report import gallery
from nanogpt import durable
from nanogpt.records import to_json
from tests.flows.report import report_facts

pytestmark = pytest.mark.fast


class Cells(HTMLParser):
    """The rows of the page's table: the text of each cell by its column."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: list[dict[str, str]] = []
        self.links: list[str] = []
        self._column = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        if tag == "tr":
            self.rows.append({})
        self._column = known.get("data-label", "") if tag == "td" else self._column
        self.links += [known["href"]] if tag == "a" else []

    def handle_data(self, data):
        if self._column and data.strip():
            self.rows[-1][self._column] = self.rows[-1].get(self._column, "") + data.strip()


def test_each_run_has_its_row_and_one_that_cannot_be_read_says_so(tmp_path):
    reports = tmp_path / "reports"
    runs = {"night": report_facts.complete_facts(tmp_path / "a"), "a <b>bad & run": report_facts.bare_facts(),
            "failed": report_facts.failed_facts(tmp_path / "b")}  # fmt: skip
    for name, facts in runs.items():
        durable.write_json(reports / name / "facts.json", to_json(replace(facts, run=name)))
    record = to_json(replace(runs["night"], run="night"))
    record["steps"]["dataset.fetch"]["source"] = "a\x1b[2J\n.txt"
    durable.write_json(reports / "night" / "facts.json", record)
    durable.write_text(reports / "night" / "training_report.html", "")
    durable.write_text(reports / "torn" / "facts.json", '{"run": "torn", ')
    page = gallery.write(reports).read_text()
    found = Cells(page)
    rows = {row["Run"]: row for row in found.rows if row}
    assert list(rows) == ["night", "failed", "a <b>bad & run", "torn"]  # by their ends; ties by name
    assert rows["night"]["Did it work"] == "Yes." and rows["night"]["Bits per byte"] == "2.236"
    assert rows["night"]["Text"] == "a\ufffd[2J .txt"
    assert rows["night"]["Time"] == "8 min 59 s"
    assert rows["night"]["What went wrong"] == "One fault, which was repaired."
    assert rows["failed"]["Did it work"] == "Partly." and rows["failed"]["Best model"] == "micro"
    assert rows["a <b>bad & run"]["Did it work"].startswith("No: no model was trained.")
    assert "cannot be read" in rows["torn"]["Did it work"]
    assert found.links == ["night/training_report.html"]  # the others have no page to lead to
    assert page.count("<polyline") == 2 and not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))


def test_a_workspace_without_reports_has_an_empty_page(tmp_path):
    assert "0 runs in" in gallery.write(tmp_path / "reports").read_text()
