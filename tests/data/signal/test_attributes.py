"""Attributes, years, and the shares that even buckets out."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from tilth.core.errors import RecipeError
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine import steps

DOMAINS = {
    "sea": "ship sail harbour wave captain anchor tide storm deck rope".split(),
    "kitchen": "bread oven butter flour knife salt soup onion plate recipe".split(),
    "court": "judge law witness jury verdict lawyer appeal trial oath clerk".split(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models are kept in a folder of the session."""
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setattr("tilth.data.scoring.kept.cache_dir", lambda: folder)
    return folder


@pytest.fixture(scope="module")
def signal(tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = tmp_path_factory.mktemp("attributes") / "labelled.jsonl"
    path.write_text("\n".join(json.dumps({"text": text(d, i), "label": d}) for d in DOMAINS for i in range(150)))
    one = {"examples": {"labelled": [str(path)]}, "positive": "", "learning": {"dim": 8, "lr": 1.0, "buckets": 999}}
    return {"use": "attributes", "attributes": {"domain": one}}


def text(domain: str, seed: int) -> str:
    rng = random.Random(f"{domain} {seed}")
    return " ".join(rng.choice(DOMAINS[domain] if rng.random() < 0.3 else ["the", "of", "and", "a"]) for _ in range(40))


def test_attributes_are_labelled_annotated_and_thinned(signal: dict) -> None:
    truth = [d for d in DOMAINS for _ in range(200)]
    docs = next(batches([Document(f"d{i}", text(d, 1000 + i), "s", "p") for i, d in enumerate(truth)]))
    config = resolve("signal", signal)
    got = config.build().compute(docs)
    assert (
        list(got)
        == list(config.columns())
        == ["attributes_domain", "attributes_domain_prob", "attributes_domain_model"]
    )
    right = np.mean([a == b for a, b in zip(got["attributes_domain"].to_pylist(), truth, strict=True)])
    assert right > 1 / 3 + 0.5
    knobs = {"use": "attributes", "signal": signal, "keep": {"domain": {"sea": 0.3, "court": 0.0}}}
    step = resolve("curate", knobs).build()
    v = steps.judge(step, steps.Signals(docs, {}))
    labels = np.array(got["attributes_domain"].to_pylist())
    assert v.keep[labels == "kitchen"].all() and not v.keep[labels == "court"].any()
    n = (labels == "sea").sum()
    assert abs(v.keep[labels == "sea"].sum() - 0.3 * n) < 4 * math.sqrt(n * 0.21)
    assert set(v.reason) == {"", "domain: sea", "domain: court"}
    fact = v.metadata["attributes"][0]["domain"]
    assert set(fact) == {"label", "prob", "model"} and len(fact["model"]) == 16
    half = docs.slice(100, 333)  # the same verdict whatever stands beside
    assert (steps.judge(step, steps.Signals(half, {})).keep == v.keep[100:433]).all()
    sure = resolve("curate", knobs | {"min_prob": 1.0}).build()
    assert steps.judge(sure, steps.Signals(docs, {})).keep.all()
    other = resolve("curate", knobs | {"seed": 1}).build()
    assert (steps.judge(other, steps.Signals(docs, {})).keep != v.keep).any()
    rows = [json.loads(m) for m in steps.after(v, steps.Signals(docs, {})).batch.column("metadata").to_pylist()]
    assert all(set(r["attributes"]) == {"domain"} for r in rows)
    for wrong, message in (({"speech": {"a": 1.0}}, "no attribute 'speech'"), ({"domain": {"sea": 2.0}}, "0 and 1")):
        with pytest.raises(RecipeError, match=message):
            resolve("curate", knobs | {"keep": wrong}).build()


def test_years() -> None:
    rows = [
        ("2019-05-01", {}, 2019),
        ("", {"year": 1998}, 1998),
        ("", {"published": "2004-02"}, 2004),
        ("", {"date": "May 2004", "created": "2005"}, 2005),
        ("0042-01-01", {"year": 2001}, 2001),  # out of range: the next is asked
        ("20190501", {}, None),
        ("", {"year": True, "date": None}, None),
        ("", {"text": "year"}, None),
    ]
    docs = next(batches([Document(f"d{i}", "t", "s", "p", json.dumps(m), date=d) for i, (d, m, _) in enumerate(rows)]))
    config = resolve("signal", "age")
    got = config.build().compute(docs)
    assert list(got) == list(config.columns())
    assert got["age_year"].to_pylist() == [y for *_, y in rows]
    narrow = resolve("signal", {"use": "age", "earliest": 2000, "latest": 2004, "fields": ["published"]})
    assert narrow.build().compute(docs)["age_year"].to_pylist() == [None, None, 2004, None, None, None, None, None]

    def reasons(**knobs: object) -> list[str]:
        step = resolve("curate", {"use": "age", **knobs}).build()
        return steps.judge(step, steps.Signals(docs, {})).reason

    assert reasons(min_year=2001, max_year=2005) == ["too_new", "too_old", *[""] * 6]
    assert reasons(min_year=2002, unknown="drop") == [
        "", "too_old", "", "", "too_old", "no_year", "no_year", "no_year",
    ]  # fmt: skip
