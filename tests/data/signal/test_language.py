"""Languages: planted sentences, real manual pages, and the filter."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tilth.core.errors import RecipeError
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge

pytest.importorskip("lingua")
SHARED = Path(__file__).parents[3].parent / "shared" / "data"
AMONG = ["en", "de", "fr", "es", "ja", "ru"]
TEXTS = {
    "en": "It is a truth universally acknowledged that a single man must be in want of a wife.",
    "de": "Es ist eine allgemein anerkannte Wahrheit, daß ein Junggeselle eine Frau brauchen müsse.",
    "fr": "C'est une vérité universellement reconnue qu'un célibataire doit avoir envie de se marier.",
    "es": "Es una verdad mundialmente reconocida que un hombre soltero necesita una esposa.",
    "ja": "独身の男性が妻を必要としていることは、広く認められた真実である。",
    "ru": "Холостяк, если он обладает средствами, должен подыскивать себе жену.",
}


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


@pytest.mark.parametrize("accurate", [False, True])
def test_planted(accurate: bool) -> None:
    config = resolve("signal", {"use": "language", "languages": AMONG, "accurate": accurate})
    got = config.build().compute(batch(*TEXTS.values(), "", "12 34\n", "https://a.b/c"))
    assert got["language_code"].to_pylist() == [*TEXTS, None, None, None]
    assert all(s > 0.5 for s in got["language_score"].to_pylist()[:6])
    assert got["language_score"].to_pylist()[6:] == [0, 0, 0]
    assert set(got) == set(config.columns())


def test_manual_pages() -> None:
    zstandard = pytest.importorskip("zstandard")
    signal = resolve("signal", {"use": "language", "languages": ["en", "de", "fr"]}).build()
    for code in ("en", "de", "fr"):
        path = SHARED / f"man-{code}.jsonl.zst"
        if not path.exists():
            pytest.skip("no shared corpora here")
        with path.open("rb") as file:
            head = zstandard.ZstdDecompressor().stream_reader(file).read(600_000).decode(errors="ignore")
        texts = [json.loads(line)["text"] for line in head.splitlines()[:20]]
        found = signal.compute(batch(*texts))["language_code"].to_pylist()
        assert found.count(code) >= 0.9 * len(found)


def test_only_a_part_is_looked_at() -> None:
    signal = resolve("signal", {"use": "language", "languages": ["en", "de"], "max_chars": 100}).build()
    english, german = TEXTS["en"] + " ", TEXTS["de"] + " "
    long = german * 10 + english * 10 + german * 10
    assert len(signal._part(long)) <= 101
    assert signal._part(long)[:20] == german[:20]
    assert "truth" in signal._part(long)


def test_filter() -> None:
    step = resolve("curate", {"use": "language", "keep": ["de", "fr"], "among": ["en", "es"]}).build()
    verdicts = judge(step, Signals(batch(TEXTS["de"], TEXTS["en"], TEXTS["fr"], ""), {}))
    assert verdicts.reason == ["", "other language", "", "other language"]
    sure = resolve("curate", {"use": "language", "keep": ["de"], "among": ["en", "nl"], "min_score": 1.0}).build()
    assert judge(sure, Signals(batch(TEXTS["de"]), {})).reason == ["language not sure"]


def test_unknown_language_is_refused() -> None:
    with pytest.raises(RecipeError, match="xx"):
        resolve("signal", {"use": "language", "languages": ["en", "xx"]}).build()
