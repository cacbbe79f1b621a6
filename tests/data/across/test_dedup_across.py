"""Exact deduplication across documents, of wholes and of units, against dictionaries."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.data.across import external
from tilth.data.curate import exact_documents, paragraphs
from tilth.data.native import clusters as sets
from tilth.data.native import minhash, units

from .driver import documents, run


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        for module in (units, sets, minhash):
            monkeypatch.setattr(module, "_library", lambda: None)
    return request.param


def column(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


PIECES = st.sampled_from(
    ["a", "B c", "\n", "\n\n", " ", "é", "e\u0301", ". ", "!", "? \n", "\t", "\u2028", "\u3000", "ß_x"]
)


@given(st.lists(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20), max_size=4))
def test_compiled_keys_are_the_plain_ones(texts: list[str]) -> None:
    texts = [t.encode(errors="replace").decode() for t in texts]
    for unit in ("document", "paragraph", "line", "sentence"):
        for shape in ("bytes", "spaces", "words"):
            for window, least in ((1, 1), (3, 2)):
                counts, keys = units.keys(column(*texts), unit, shape, window, least)
                given_ = units.nfc(column(*texts)) if shape != "bytes" else column(*texts)
                plain = units._plain(given_, unit, shape, window, least)
                if unit != "document":
                    assert counts.tolist() == plain[0].tolist()
                assert keys.tolist() == plain[1].tolist()


def test_units() -> None:
    text = "One. Two!\nthree 3.5 is\n \n\nFour? "
    cut = {unit: [text[a:b] for a, b in units.spans(text, unit)] for unit in ("line", "paragraph", "sentence")}
    assert cut["line"] == ["One. Two!", "three 3.5 is", " ", "", "Four? "]
    assert cut["paragraph"] == ["One. Two!\nthree 3.5 is", "Four? "]
    assert cut["sentence"] == ["One.", "Two!", "three 3.5 is", "Four?"]


# ---- documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["bytes", "spaces", "words"])
def test_survivors_are_those_of_a_dictionary(
    shape: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tilth.data.across.clusters", "tilth.data.across.external"):
        monkeypatch.setattr(f"{module}.RECORDS", 8)
    rng = random.Random(1)
    texts = [
        " ".join(rng.choices(["a", "A", "b,", "b", "é", "e\u0301", "\n"], k=rng.randint(0, 3))) for _ in range(150)
    ]

    def key(text: str) -> str:
        if shape == "bytes":
            return text
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text if shape == "spaces" else " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())

    seen: set[str] = set()
    expected = []
    for text in texts:
        expected.append(not key(text) or key(text) not in seen)
        seen.add(key(text))
    verdicts, space = run(exact_documents.Config(form=shape).build(), documents(texts), tmp_path, shuffle=3)  # type: ignore[arg-type]
    assert verdicts.keep.tolist() == expected
    assert set(verdicts.reason) == {"", "exact duplicate"}
    assert json.loads((space.dir / "summary" / "summary.json").read_text())["removed"] == expected.count(False)


def test_index_scope_and_keeper_of_documents(tmp_path: Path) -> None:
    rows = documents(["x", "y ", "x"], source=["web", "web", "books"])
    verdicts, space = run(exact_documents.Config(keep=("books",)).build(), rows, tmp_path / "1")
    assert verdicts.keep.tolist() == [False, True, True]
    again = exact_documents.Config(index=(space.dir / "index",))
    verdicts, _ = run(again.build(), documents(["z", "y", "z"]), tmp_path / "2")
    assert verdicts.reason == ["", "exact duplicate of the index", "exact duplicate"]
    verdicts, _ = run(exact_documents.Config(scope="source").build(), rows, tmp_path / "3")
    assert verdicts.keep.all()


def test_one_text_a_thousand_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tilth.data.across.clusters", "tilth.data.across.external"):
        monkeypatch.setattr(f"{module}.RECORDS", 50)
    verdicts, space = run(exact_documents.Config().build(), documents(["x"] * 1000), tmp_path, part_rows=90)
    assert verdicts.keep.sum() == 1
    # However often a key occurs, each chunk sends one record of it.
    chunks = [np.load(p) for p in (space.dir / "keys").glob("*/chunk-*.npy")]
    assert len(chunks) > 10 and all(len(c) == 1 for c in chunks)


# ---- units -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["line", "paragraph", "sentence"])
def test_texts_are_those_of_a_dictionary(unit: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "RECORDS", 10)
    rng = random.Random(2)
    pieces = ["Menu", "Home page. ", "A b. C d!", "\n", "\n\n", "é x", "All rights reserved. "]
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 6))) for _ in range(120)]
    seen: set[str] = set()
    expected: list[str | None] = []
    for text in texts:
        spans = units.spans(text, unit)  # type: ignore[arg-type]
        starts = [*(a for a, _ in spans), len(text)]
        left, cut_any = text[: starts[0]], False
        for (a, b), stop in zip(spans, starts[1:], strict=True):
            key = " ".join(text[a:b].split())
            if key and key in seen:
                cut_any = True
            else:
                left += text[a:stop]
            seen.add(key)
        expected.append(None if cut_any and not left.split() else left)
    verdicts, _ = run(paragraphs.Config(unit=unit).build(), documents(texts), tmp_path, shuffle=1)  # type: ignore[arg-type]
    assert verdicts.text is not None
    got = [t if k else None for t, k in zip(verdicts.text.to_pylist(), verdicts.keep, strict=True)]
    assert got == expected
    for row, text in enumerate(got):  # the edits lead from the old text to the new one, and back
        if text is not None:
            for edit in sorted((e for e in verdicts.edits if e.row == row), key=lambda e: e.start):
                text = text[: edit.start] + edit.removed + text[edit.start :]
            assert text == texts[row]


def test_spans_of_three_sentences_as_in_c4(tmp_path: Path) -> None:
    shared = "The first one. The second one. The third one."
    texts = [
        f"Alpha here. {shared} Omega there.",
        f"Beta here. {shared} Psi there.",
        "The first one. The second one. New.",
    ]
    config = paragraphs.Config(unit="sentence", window=3)
    verdicts, _ = run(config.build(), documents(texts), tmp_path / "1")
    assert verdicts.text is not None
    assert verdicts.text.to_pylist() == [texts[0], "Beta here. Psi there.", texts[2]]
    short, _ = run(config.model_copy(update={"min_units": 3}).build(), documents(texts), tmp_path / "2")
    assert short.keep.tolist() == [True, False, True]
    assert (short.value[1] if short.value is not None else None) == 2


@pytest.mark.parametrize(
    ("config", "cut"),
    [
        ({}, [1, 2]),
        ({"keep": ("b",)}, [0, 1]),
        ({"scope": "source"}, [1]),
        ({"min_chars": 20}, []),
        ({"keep": "longest"}, [0, 1]),
    ],
)
def test_whose_copy_stays(config: dict[str, object], cut: list[int], tmp_path: Path) -> None:
    rows = documents(["same line\nx1", "same line\nx2", "same line\nlonger than those"], source=["a", "a", "b"])
    verdicts, _ = run(paragraphs.Config(unit="line", **config).build(), rows, tmp_path)  # type: ignore[arg-type]
    assert sorted({e.row for e in verdicts.edits}) == cut


def test_nothing_at_all(tmp_path: Path) -> None:
    for i, step in enumerate([exact_documents.Config(), paragraphs.Config()]):
        assert len(run(step.build(), [], tmp_path / f"{i}")[0].keep) == 0
        verdicts, _ = run(step.build(), documents(["", ""]), tmp_path / f"{i}b")
        assert verdicts.keep.all()
