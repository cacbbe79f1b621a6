"""The page of a data run: true to the ledger, harmless whatever the documents hold, and quiet in a browser."""

from __future__ import annotations

import html.parser
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tilth.core.errors import DataError
from tilth.data.engine import run as engine
from tilth.data.engine.ledger import funnel
from tilth.data.engine.result import Result
from tilth.report import data_page

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31mred "quoted" & <b>bold</b> --> ]]>'


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(3, 8))) for _ in range(400)]
    rows = [{"text": HOSTILE + " " + " ".join(draw.sample(words, 30 + i))} for i in range(60)]
    rows += [{"text": rows[40]["text"] + f" {word}"} for word in words[:3]] + [{"text": HOSTILE}] * 2
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "{" + HOSTILE + "\n")
    (folder / "recipe.yaml").write_text(
        f"""
name: hostile
card: {{title: 'Five < six & <script>'}}
sources: {{own: {{use: files, path: {folder / "a.jsonl"}}}}}
signals: [redpajama]
steps: [{{use: rules, min_chars: 150}}, {{use: redpajama, min_words: 45, max_no_alpha: null}}, exact_documents, minhash]
"""
    )
    done = engine.run(folder / "recipe.yaml", root=folder, engine="inline", say=lambda line: None)
    return Result(done.dir)


def test_nothing_from_data_becomes_markup(finished: Result) -> None:
    page = data_page.render(finished)
    parser = Tags()
    parser.feed(page)
    assert "script" not in parser.seen and "img" not in parser.seen and "b" in parser.seen
    assert "default-src 'none'" in page and "\x1b" not in page
    shown = "".join(parser.text)
    assert "<script>alert(1)</script>" in shown and "Five < six & <script>" in shown


def test_the_funnel_is_the_ledger(finished: Result) -> None:
    rows = funnel(finished.ledger)
    (book,) = finished.ledger["sources"].values()
    assert sum(r["gone"] for r in rows) == book["in"] - book["kept"]
    assert rows[-1]["left"] == book["kept"] and rows[0]["step"] == "quarantined"
    for row in rows:
        assert row["gone"] == sum(n for _, n, _ in row["reasons"]) and row["came"] - row["gone"] == row["left"]


def test_histograms_show_every_document_and_the_limit(finished: Result) -> None:
    found = {h["signal"]: h for h in data_page.histograms(finished)}
    words = found["rps_doc_word_count"]
    came = 65 - finished.ledger["sources"]["own"]["dropped"].get("00-rules: too short", 0)
    assert words["documents"] in (65, came)
    assert 45 in [limit for _, limit in words["lines"]]
    assert max(y for _, y in words["bars"]) == 1.0


def test_clusters_and_both_kinds_of_documents_are_there(finished: Result) -> None:
    found = data_page.clusters(finished)
    assert found and all(c["size"] >= 2 for step in found for c in step["largest"])
    page = data_page.render(finished)
    assert page.count("<article") >= 8


def test_written_beside_the_run_or_refused(finished: Result, tmp_path: Path) -> None:
    assert data_page.write(finished.dir) == finished.dir / "report.html"
    with pytest.raises(DataError, match="no data run"):
        data_page.write(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_quiet_and_no_wider_than_the_window(browser: Any, finished: Result, width: int, scheme: str) -> None:
    browser.open(data_page.write(finished.dir), width, scheme=scheme)
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.settle()
    assert browser.complaints() == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())
