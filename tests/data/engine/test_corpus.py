"""Prepared documents: books that balance, a split that cannot leak, a cache to rely on, crashes that leave nothing."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilth.data.corpus
from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.core.recipe import Data, Holdout
from tilth.data.corpus import Documents, NothingLeft, prepare
from tilth.data.document import SCHEMA, text_key
from tilth.data.holdout import hold_out


def corpus(sources, curate=(), **more):
    made = {name: {"use": "files", "path": str(path)} for name, path in sources.items()}
    return validate(Data, {"sources": made, "steps": list(curate), **more})


def write(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def sentence(i):
    return (
        f"Document number {i} talks about the subject {i * i} in its own words, of which there are {i % 7 + 40}. " * 2
    )


@pytest.fixture
def sources(tmp_path):
    return {
        "web": write(tmp_path / "web.jsonl", [sentence(i) for i in range(40)] + [sentence(3), "short", ""]),
        "books": write(tmp_path / "books.jsonl", [sentence(i) for i in range(38, 60)]),
    }


STEPS = [{"use": "exact"}, {"use": "rules", "min_chars": 20}, {"use": "near", "threshold": 0.95}]


def test_everything_is_accounted_for(sources, tmp_path):
    with sources["web"].open("ab") as f:
        f.write(b'not json\n{"text": "\xff"}\n')
    said = []
    documents = prepare(corpus(sources, STEPS, holdout={"fraction": 0.1}), tmp_path / "cache", said.append)
    web, books = documents.ledger["web"], documents.ledger["books"]
    assert web["in"] == 45 and web["kept"] == 40
    assert web["dropped"] == {"exact duplicate": 1, "too short": 1, "empty": 1} and set(web["quarantined"]) == {
        "not JSON",
        "not UTF-8",
    }
    assert books["in"] == 22 and books["kept"] == 20 and books["dropped"] == {"exact duplicate": 2}
    assert web["examples"]["exact duplicate"][0]["text"].startswith("Document number 3")
    assert said == [
        "web: 40 documents, 0.0 MB kept (4 held out); 3 dropped (empty 1, exact duplicate 1, too short 1); "
        "2 quarantined (not JSON 1, not UTF-8 1)",
        "books: 20 documents, 0.0 MB kept (2 held out); 2 dropped (exact duplicate 2)",
    ]
    rows = [json.loads(line) for line in (documents.dir / "quarantine.jsonl").read_text().splitlines()]
    assert [r["place"].split(",")[0] for r in rows] == ["line 44", "line 45"]
    for name, account in documents.ledger.items():
        for split in ("train", "held_out"):
            batches = list(documents.read(name, split))
            assert all(b.schema == SCHEMA for b in batches)
            texts = documents.texts(name, split)
            assert account[split] == {"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts)}
            assert {s for b in batches for s in b.column("source").to_pylist()} == {name}
        assert account["kept"] == account["train"]["documents"] + account["held_out"]["documents"]
        assert account["kept_bytes"] == account["train"]["bytes"] + account["held_out"]["bytes"]
    kept = [t for n in documents.sources for s in ("train", "held_out") for t in documents.texts(n, s)]
    assert Counter(kept) == Counter(sentence(i) for i in range(60))
    assert not documents.ids("train") & documents.ids("held_out")
    assert len(documents.ids("train")) == 54 and len(documents.ids("held_out")) == 6
    documents.verify()


def test_a_step_that_loses_documents_is_found_out(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(tilth.data.corpus, "judge", lambda batch, *rest: batch.slice(1))
    with pytest.raises(DataError, match="loses or invents documents"):
        prepare(corpus(sources), tmp_path / "cache", lambda line: None)
    assert not list((tmp_path / "cache").glob("documents-*"))


ROW = st.sampled_from(["good", "again", "short", "{", '{"text": 1}', "\\u0000"])


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(ROW, st.integers(0, 5)), min_size=1), fraction=st.sampled_from([0.0, 0.3]))
def test_books_balance_whatever_comes_in(rows, fraction, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("c")
    want, texts = Counter(), set()
    with (tmp_path / "a.jsonl").open("w") as f:
        for kind, i in rows:
            text = {"good": sentence(i), "again": sentence(i).replace(" ", "  "), "short": "x", "\\u0000": kind}.get(
                kind
            )
            f.write((json.dumps({"text": text}).replace("\\\\", "\\") if text else kind) + "\n")
            if kind in ("good", "again"):
                want["exact duplicate" if i in texts else "kept"] += 1
                texts.add(i)
            elif kind == "short":
                want["too short"] += 1
            else:
                want["quarantined"] += 1
    made = corpus(
        {"a": tmp_path / "a.jsonl"},
        [{"use": "rules", "min_chars": 20}, {"use": "exact"}],
        holdout={"fraction": fraction},
    )
    if not want["kept"]:
        with pytest.raises(DataError, match="nothing is left of this source"):
            prepare(made, tmp_path / "cache", lambda line: None)
        assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
        return
    account = prepare(made, tmp_path / "cache", lambda line: None).ledger["a"]
    assert account["in"] == len(rows) and account["kept"] == want["kept"] == len(texts)
    assert account["dropped"].get("exact duplicate", 0) == want["exact duplicate"]
    assert account["dropped"].get("too short", 0) == want["too short"]
    assert sum(account["quarantined"].values()) == want["quarantined"]


# ---- the split ---------------------------------------------------------------------------------------------------

KEPT = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(st.tuples(st.integers(0, 15), st.integers(1, 50)), min_size=1, max_size=25),
    min_size=1,
)


@given(kept=KEPT, fraction=st.sampled_from([0.0, 0.01, 0.2, 0.9]), max_bytes=st.sampled_from([0, 60, 10_000]))
def test_the_split_never_leaks_and_keeps_to_its_bounds(kept, fraction, max_bytes):
    kept = {s: [(text_key(str(k)), n, "") for k, n in rows] for s, rows in kept.items()}
    chosen = hold_out(kept, Holdout(fraction=fraction, max_bytes=max_bytes))
    sides: dict[bytes, set[bool]] = {}
    for source, rows in kept.items():
        mask = chosen[source].tolist()
        assert len(mask) == len(rows) and not all(mask)
        assert sum(n for (_, n, _), held in zip(rows, mask, strict=True) if held) <= max_bytes
        if not fraction:
            assert not any(mask)
        for (key, _, _), held in zip(rows, mask, strict=True):
            sides.setdefault(key, set()).add(held)
        own = {k for k, _, _ in rows} - {k for s, r in kept.items() if s != source for k, _, _ in r}
        if fraction and max_bytes == 10_000 and own and len({k for k, _, _ in rows}) > 1:
            assert any(mask)
            groups = Counter(k for k, _, _ in rows)
            largest = max(groups.values())
            assert sum(mask) < max(1, round(fraction * len(rows))) + largest
    assert all(len(s) == 1 for s in sides.values())


def test_what_two_sources_made_of_one_file_is_never_parted():
    code = [(text_key(f"code {i}"), 10, f"m{i}.py") for i in range(100)]
    prose = [(text_key(f"prose {i}"), 10, f"m{i}.py") for i in range(0, 100, 2)]
    lines = [(text_key(f"line {i}"), 10, "all.jsonl") for i in range(100)]  # one file of many documents: no link
    masks = hold_out({"code": code, "prose": prose, "lines": lines}, Holdout(fraction=0.1, max_bytes=10**6))
    held = {
        s: {path for (_, _, path), m in zip(rows, masks[s], strict=True) if m}
        for s, rows in {"code": code, "prose": prose}.items()
    }
    both = {path for _, _, path in prose}
    assert held["code"] & both == held["prose"]
    assert masks["code"].sum() >= 10 and masks["prose"].sum() >= 5 and masks["lines"].sum() == 10


def test_documents_with_the_smallest_hashes_are_held_out():
    rows = [(text_key(str(i)), 10, "") for i in range(200)]
    mask = hold_out({"a": rows}, Holdout(fraction=0.1, max_bytes=10**6))["a"]
    assert {k for (k, _, _), held in zip(rows, mask, strict=True) if held} == set(sorted(k for k, _, _ in rows)[:20])
    few = hold_out({"a": rows}, Holdout(fraction=0.1, max_bytes=45))["a"]
    assert {k for (k, _, _), held in zip(rows, few, strict=True) if held} == set(sorted(k for k, _, _ in rows)[:4])
    more = hold_out({"a": [*rows, (text_key("new"), 10, "")]}, Holdout(fraction=0.1, max_bytes=10**6))["a"]
    assert (more[:-1] != mask).sum() <= 1  # a document more moves at most one across


def test_a_single_document_is_trained_on(tmp_path):
    said = []
    (tmp_path / "novel.txt").write_text(sentence(1))
    documents = prepare(corpus({"a": tmp_path / "novel.txt"}), tmp_path / "cache", said.append)
    assert documents.texts("a", "train") == [sentence(1)] and documents.texts("a", "held_out") == []
    assert "(none held out)" in said[0]


def test_texts_stop_before_the_limit(sources, tmp_path):
    documents = prepare(corpus(sources), tmp_path / "cache", lambda line: None)
    whole = documents.texts("books", "train")
    two = sum(len(t.encode()) for t in whole[:2])
    assert documents.texts("books", "train", two) == whole[:2]
    assert documents.texts("books", "train", two - 1) == whole[:1] and documents.texts("books", "train", 0) == []
    with pytest.raises(DataError, match="no split 'test' of a source 'books'"):
        documents.texts("books", "test")
    with pytest.raises(DataError, match="no split 'train' of a source 'bok'"):
        documents.texts("bok", "train")


# ---- the cache ---------------------------------------------------------------------------------------------------


def test_the_same_corpus_is_prepared_once_and_another_anew(sources, tmp_path, monkeypatch):
    base = {"sources": sources, "steps": STEPS}
    first = prepare(corpus(**base), tmp_path / "cache", lambda line: None)
    with monkeypatch.context() as m:
        m.setattr(tilth.data.corpus, "_build", None)  # would fail if called
        again = prepare(corpus(**base), tmp_path / "cache", lambda line: None)
    assert again.key == first.key and again.dir == first.dir and again.ledger == first.ledger
    variants = [
        base | {"steps": STEPS[:2]},
        base | {"steps": [STEPS[0], {"use": "rules", "min_chars": 21}, STEPS[2]]},
        base | {"sources": dict(reversed(sources.items()))},
        base | {"holdout": {"fraction": 0.5}},
        base | {"holdout": {"max_bytes": 1}},
        base | {"on_error": "raise"},
    ]
    made = [prepare(corpus(**v), tmp_path / "cache", lambda line: None) for v in variants]
    write(sources["web"], [sentence(1), sentence(2)])
    made.append(prepare(corpus(**base), tmp_path / "cache", lambda line: None))
    assert len({first.dir, *(d.dir for d in made)}) == 8
    assert made[5].key == first.key  # on_error: raise gave the same text
    assert first.key not in {made[2].key, made[3].key, made[6].key}  # other order, other split, other text
    assert len(list((tmp_path / "cache").glob("documents-*"))) == 8


def test_damaged_files_are_made_again(sources, tmp_path):
    first = prepare(corpus(sources), tmp_path / "cache", lambda line: None)
    texts = first.texts("web", "train")
    target = first.dir / "web.train.parquet"
    raw = target.read_bytes()
    target.write_bytes(raw[:-1])
    said = []
    assert prepare(corpus(sources), tmp_path / "cache", said.append).texts("web", "train") == texts
    assert "made again" in said[0] and "web.train.parquet" in said[0]
    (first.dir / "ledger.json").write_text("{}")
    assert prepare(corpus(sources), tmp_path / "cache", said.append).texts("web", "train") == texts
    flipped = bytearray(target.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    target.write_bytes(flipped)
    with pytest.raises(DataError, match=r"web\.train\.parquet: this file has changed since it was written"):
        Documents(first.dir).verify()
    assert prepare(corpus(sources), tmp_path / "cache", said.append).texts("web", "train") == texts
    assert any("has changed since it was written" in line for line in said) and target.read_bytes() == raw


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_leaves_nothing(sources, tmp_path, monkeypatch, after):
    calls = []
    real = pq.ParquetWriter.write_table

    def write_table(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(pq.ParquetWriter, "write_table", write_table)
        with pytest.raises(DataError, match="cannot be written: No space left on device"):
            prepare(corpus(sources), tmp_path / "cache", lambda line: None)
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []
    assert len(prepare(corpus(sources), tmp_path / "cache", lambda line: None).ids("train")) == 62


def test_a_cache_that_cannot_be_made_is_one_sentence(sources, tmp_path):
    (tmp_path / "cache").write_text("a file stands here")
    with pytest.raises(DataError, match=r"cache: the documents cannot be written"):
        prepare(corpus(sources), tmp_path / "cache", lambda line: None)


SCRIPT = """
import os, sys, json
from pathlib import Path
import tilth.data.corpus as c
from tilth.core.config import validate
from tilth.core.recipe import Data
if sys.argv[3] == "kill":
    c.hold_out = lambda *a: os.kill(os.getpid(), 9)
d = c.prepare(validate(Data, json.loads(sys.argv[1])), Path(sys.argv[2]), lambda line: None)
print(d.dir)
"""


def test_a_killed_process_leaves_nothing_that_looks_finished_and_hashes_do_not_matter(sources, tmp_path):
    made = {
        "sources": {n: {"use": "files", "path": str(p)} for n, p in sources.items()},
        "steps": STEPS,
        "holdout": {"fraction": 0.2},
    }

    def run(cache, mode, seed):
        command = [sys.executable, "-c", SCRIPT, json.dumps(made), str(tmp_path / cache), mode]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": seed})

    assert run("one", "kill", "1").returncode == -9
    assert [p.name for p in (tmp_path / "one").glob("documents-*")] == []
    assert list((tmp_path / "one").glob(".documents-*.tilth-????????"))
    dirs = [Path(run(cache, "", seed).stdout.strip()) for cache, seed in (("one", "2"), ("two", "3"))]
    assert not list((tmp_path / "one").glob(".documents-*.tilth-????????"))
    assert dirs[0].name == dirs[1].name
    for path in dirs[0].iterdir():
        assert path.read_bytes() == (dirs[1] / path.name).read_bytes()


def test_faults_of_a_source_come_before_anything_is_written(sources, tmp_path):
    with pytest.raises(DataError, match=r"Did you mean 'web\.jsonl'"):
        prepare(corpus(sources | {"x": tmp_path / "web.json"}), tmp_path / "cache", lambda line: None)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"data\.sources\.bad: nothing is left.*1 quarantined as not JSON"):
        prepare(corpus({"bad": tmp_path / "bad.jsonl"}), tmp_path / "cache", lambda line: None)
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1, column 2: not JSON"):
        prepare(corpus({"bad": tmp_path / "bad.jsonl"}, on_error="raise"), tmp_path / "cache", lambda line: None)
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]


def test_what_a_step_reads_is_part_of_the_corpus_and_what_it_cannot_do_is_said(sources, tmp_path):
    exam = tmp_path / "exam.jsonl"
    long = " ".join(f"word{i}" for i in range(20))
    exam.write_text(json.dumps({"text": long}) + '\n{"text": "too short"}\n')
    step = {"use": "decontaminate", "sets": {"exam": {"path": str(exam)}}}
    notice = "decontaminate: exam: 1 of 2 items are shorter than 13 words and not protected, such as item 1 (too short)"
    for _ in range(2):  # made, then from the cache
        said: list[str] = []
        documents = prepare(corpus(sources, [step]), tmp_path / "cache", said.append)
        assert said[0] == notice and documents.notices == [notice]
    exam.write_text(json.dumps({"text": long + " more"}) + "\n")  # another set under the same name
    assert prepare(corpus(sources, [step]), tmp_path / "cache", said.append).notices == []


# ---- own held-out text, and tails ----------------------------------------------------------------------------------


def words(seed, n):
    import random

    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(n))


def test_own_held_out_text_is_read_as_it_is_and_never_trained_on(tmp_path):
    same, alike = words(1, 60), words(2, 60)
    train = write(tmp_path / "train.jsonl", [*(words(10 + i, 80) for i in range(20)), same, f"{alike} {words(3, 60)}"])
    held = write(tmp_path / "test.jsonl", [same, alike, words(4, 60), "short"])
    asked = {"exam": {"use": "files", "path": str(held)}}
    steps = [{"use": "rules", "min_chars": 20}]  # would drop "short"
    said: list[str] = []
    for _ in range(2):  # made, and from the cache
        said.clear()
        made = corpus({"a": train}, steps, held_out=asked, holdout={"fraction": 0.1})
        documents = prepare(made, tmp_path / "cache", said.append)
        assert documents.domains == ["a", "exam"] and documents.sources == ["a"]
        assert documents.texts("exam", "held_out") == [same, alike, words(4, 60), "short"]
        kept = documents.texts("a", "train") + documents.texts("a", "held_out")
        assert same not in kept and len(kept) == 21 and len(documents.texts("a", "held_out")) == 2
        assert documents.ledger["a"]["dropped"] == {"held out": 1}
        assert documents.held_out["exam"]["overlap"] == {
            "documents": 4,
            "sharing": 1,
            "half": 1,
            "short": 1,
            "copies": 1,
        }
        assert any(
            "held_out.exam: 4 documents, 0.0 MB of your own; 1 share a run of 13 words with the training text (1 of "
            "them half of their runs or more), 1 are too short to tell; 1 training documents with the same" in line
            for line in said
        )
    with pytest.raises(DataError, match="no split 'train' of a source 'exam'"):
        documents.texts("exam", "train")
    other = prepare(corpus({"a": train}, steps, holdout={"fraction": 0.1}), tmp_path / "cache", said.append)
    assert other.key != documents.key
    (tmp_path / "none.jsonl").write_text('{"text": ""}\n')
    asked = {"exam": {"use": "files", "path": str(tmp_path / "none.jsonl")}}
    with pytest.raises(NothingLeft, match=r"data\.held_out\.exam: nothing is left of this source"):
        prepare(corpus({"a": train}, held_out=asked), tmp_path / "cache", said.append)


def test_own_held_out_text_under_a_sources_name_takes_the_place_of_its_holdout(sources, tmp_path):
    held = write(tmp_path / "test.jsonl", [words(1, 60)])
    made = corpus(sources, held_out={"web": {"use": "files", "path": str(held)}}, holdout={"fraction": 0.2})
    documents = prepare(made, tmp_path / "cache", lambda line: None)
    assert documents.texts("web", "held_out") == [words(1, 60)] and documents.domains == ["web", "books"]
    assert documents.ledger["web"]["held_out"] == {"documents": 1, "bytes": len(words(1, 60))}
    assert documents.ledger["web"]["train"]["documents"] == documents.ledger["web"]["kept"]
    assert documents.ledger["books"]["held_out"]["documents"] == 4


def test_a_single_large_file_holds_out_its_tail(tmp_path):
    lines = [f"Zeile {i}: {words(i, 8)} ü" for i in range(400)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    size = (tmp_path / "a.txt").stat().st_size
    said: list[str] = []
    made = corpus({"a": tmp_path / "a.txt"}, holdout={"fraction": 0.05})
    documents = prepare(made, tmp_path / "cache", said.append)
    (head,), (tail,) = documents.texts("a", "train"), documents.texts("a", "held_out")
    assert head + tail == (tmp_path / "a.txt").read_text() and tail.startswith("Zeile ")
    assert 0.04 * size < len(tail.encode()) <= 0.05 * size + 1
    assert said[-1].startswith(f"a: of 1 document ({size:,} bytes) none can be held out whole, so about the last ")
    rows = [b.to_pylist()[0] for s in ("train", "held_out") for b in documents.read("a", s)]
    assert [r["start"] for r in rows] == [0, len(head.encode())] and [r["stop"] for r in rows][-1] == size
    assert len({r["id"] for r in rows}) == 2 and documents.ledger["a"]["kept"] == 1


def test_what_cannot_be_held_out_is_said(tmp_path):
    said: list[str] = []
    (tmp_path / "a.txt").write_text("A few words are all there is.")
    prepare(corpus({"a": tmp_path / "a.txt"}), tmp_path / "cache", said.append)
    assert "nothing of it will be evaluated" in said[-1] and "data.held_out: {a: {use: files, …}}" in said[-1]
    said.clear()
    prepare(corpus({"a": tmp_path / "a.txt"}, holdout={"fraction": 0.0}), tmp_path / "cache", said.append)
    assert len(said) == 1  # none was asked for
    long = [words(i, 4000) for i in range(2)]  # none is within max_bytes
    made = corpus({"a": write(tmp_path / "b.jsonl", long)}, holdout={"fraction": 0.1, "max_bytes": 2000})
    documents = prepare(made, tmp_path / "cache", said.append)
    assert 1000 < documents.ledger["a"]["held_out"]["bytes"] <= 2000
