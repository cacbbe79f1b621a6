"""Files written by strangers and the standard library: what is read, what is refused, and that all of it is counted."""

import ast
import gzip
import io
import json
import os
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.config import validate
from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import names, resolve
from tilth.data.document import SCHEMA, Ledger, beside, document_id
from tilth.data.read import cutting
from tilth.data.source import files, stdlib
from tilth.data.text.python import Module


def read(config, tmp_path, on_error="quarantine"):
    """Documents, the account, and the quarantined places of one source."""
    file = tmp_path / "quarantine.jsonl"
    with Ledger(file, on_error) as ledger:
        documents = []
        for batch in config.read(ledger.of("s")):
            assert batch.schema == SCHEMA
            ledger.read("s", batch.num_rows)
            ledger.keep("s", batch.num_rows, 0)
            documents += batch.to_pylist()
        ledger.check()
    return documents, ledger.to_dict()["s"], [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def config(path, **knobs):
    return validate(files.Config, {"path": str(path), **knobs})


def lines(*rows):
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


# ---- files: what is read -----------------------------------------------------------------------------------------


def test_every_format_gives_the_same_documents(folder, tmp_path):
    texts = ["first\ntext", "zweiter Täxt", "third"]
    rows = lines(*({"text": t} for t in texts))
    (folder / "a.jsonl").write_bytes(rows)
    (folder / "b.ndjson.gz").write_bytes(gzip.compress(rows))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(rows))
    (folder / "d.json.gz").write_bytes(gzip.compress(rows))
    (folder / "e.txt.zst").write_bytes(zstandard.compress("<|end|>".join(texts).encode()))
    (folder / "f.md").write_bytes("<|end|>".join([*texts, "\n"]).encode())
    pq.write_table(pa.table({"text": texts}), folder / "g.parquet")
    documents, account, _ = read(config(folder, separator="<|end|>"), tmp_path)
    assert [d["text"] for d in documents] == texts * 7
    assert account["in"] == 21 and not account["dropped"] and not account["quarantined"]
    assert [d["path"] for d in documents[::3]] == sorted(p.name for p in folder.iterdir())
    assert len({d["id"] for d in documents}) == 21
    assert [json.loads(d["metadata"]) for d in documents[15:]] == [{}] * 3 + [{"row": i} for i in (1, 2, 3)]
    inflated = {".jsonl": bytes, ".gz": gzip.decompress, ".zst": zstandard.decompress, ".md": bytes}
    for d in documents[:18]:  # the bytes named hold the document
        path = folder / d["path"]
        stored = inflated[path.suffix](path.read_bytes())[d["start"] : d["stop"]]
        assert d["text"] == (stored.decode() if path.name[0] in "ef" else json.loads(stored)["text"])
    assert {(d["start"], d["stop"]) for d in documents[18:]} == {(-1, -1)}


def test_folders_are_walked_in_order_without_hidden_or_unknown_files(folder, tmp_path):
    for name in [
        "b/z.py",
        "b/a.TXT",
        "a/x.md",
        "c.rst",
        ".git/config.txt",
        "a/.secret.md",
        "b/__pycache__/z.py",
        "p.png",
    ]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"text of {name}")
    documents, _, _ = read(config(folder), tmp_path)
    assert [d["path"] for d in documents] == ["a/x.md", "b/a.TXT", "b/z.py", "c.rst"]
    first = documents[0]
    assert first == {
        "id": document_id("s", "a/x.md", "text of a/x.md", 0),
        "text": "text of a/x.md",
        "source": "s",
        "path": "a/x.md",
        "metadata": "{}",
        "url": "",
        "date": "",
        "licence": "",
        "start": 0,
        "stop": 14,
    }
    documents, _, _ = read(config(folder, suffixes=[".png"]), tmp_path)
    assert [d["path"] for d in documents] == ["p.png"]


def test_named_files_patterns_and_lists(folder, tmp_path, monkeypatch):
    for name in ["one.dat", "two.dat", "sub/three.dat", "four.txt"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.chdir(folder.parent)
    assert [d["text"] for d in read(config("in/one.dat"), tmp_path)[0]] == ["one.dat"]
    assert [d["path"] for d in read(config("in/**/*.dat"), tmp_path)[0]] == ["one.dat", "sub/three.dat", "two.dat"]
    both = validate(files.Config, {"path": ["in/t*", "in/sub", "in/two.dat"], "suffixes": [".dat"]})
    assert [d["path"] for d in read(both, tmp_path)[0]] == ["sub/three.dat", "two.dat"]


def test_ids_and_metadata_come_from_the_fields_named(folder, tmp_path):
    rows = [{"body": "a", "key": 7, "url": "u"}, {"body": "b", "key": "x"}, {"body": "c", "key": 7}, {"body": "d"}]
    (folder / "a.jsonl").write_bytes(lines(*rows))
    made = config(folder, text_field="body", id_field="key", metadata_fields=["url"])
    documents, account, places = read(made, tmp_path)
    assert [(d["id"], json.loads(d["metadata"])) for d in documents] == [
        ("s:7", {"url": "u"}),
        ("s:x", {}),
        (document_id("s", "a.jsonl", "d", documents[2]["start"]), {}),  # a document without an id is one all the same
    ]
    assert account["quarantined"] == {"a 'key' that stood before": 1} and [p["place"] for p in places] == [
        "line 3, s:7"
    ]
    assert account["warnings"] == {"no field 'key'": 1}


def test_addresses_dates_and_licences_have_columns_of_their_own(folder, tmp_path):
    rows = [
        {"text": "a", "u": " https://a.org/x ", "d": "20240229235959", "l": "CC-BY-4.0"},
        {"text": "b"},
        {"text": "c", "u": None, "d": "", "l": ""},
        {"text": "d", "d": "9999-12-31"},
        {"text": "e", "d": "2023-02-29"},
        {"text": "f", "u": "two\nlines"},
        {"text": "g", "l": ["MIT"]},
    ]
    (folder / "a.jsonl").write_bytes(lines(*rows))
    made = config(folder, url_field="u", date_field="d", licence_field="l")
    documents, account, _ = read(made, tmp_path)
    assert [(d["text"], d["url"], d["date"], d["licence"]) for d in documents] == [
        ("a", "https://a.org/x", "2024-02-29T23:59:59Z", "CC-BY-4.0"),
        ("b", "", "", ""),
        *((text, "", "", "") for text in "cdefg"),
    ]
    assert not account["quarantined"] and account["warnings"] == {
        "a date beyond all reason": 1,
        "a date that cannot be read": 1,
        "the field 'u' is no single line of at most 8,000 characters": 1,
        "the field 'l' is not text": 1,
    }


SUFFIXES = [".jsonl", ".json", ".txt", ".parquet"]


# ---- files: shards -----------------------------------------------------------------------------------------------


def in_shards(made, tmp_path):
    """Documents and quarantined places of all shards, each read by itself."""
    documents, places = [], []
    for shard in made.shards():
        with Ledger(tmp_path / "shard.jsonl") as ledger:
            rows = [row for batch in made.read(ledger.of("s"), shard) for row in batch.to_pylist()]
        documents += rows
        places += [json.loads(line) for line in (tmp_path / "shard.jsonl").read_text().splitlines()]
    return documents, places


@pytest.mark.parametrize("size", [40, 300, 2000, 10**6])
def test_shards_together_are_the_whole(folder, tmp_path, monkeypatch, size):
    monkeypatch.setattr(cutting, "SHARD_BYTES", size)
    rows = [{"text": f"text {i} " * (i % 5 + 1)} for i in range(40)]
    body = lines(*rows[:20]) + b"not JSON\n" + lines(*rows[20:]) + b'{"text": "' + b"x" * 900 + b'"}\n\n'
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + body)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(body))
    for i in range(6):
        (folder / f"c{i}.txt").write_text(f"a text {i}" * 10 + "<|end|>" + "more\r\n" * i + "<|end|>")
    pq.write_table(pa.table({"text": [r["text"] for r in rows]}), folder / "d.parquet", row_group_size=7)
    (folder / "e.jsonl").write_bytes("\ufeff{}\n{}\n".encode("utf-16-le") * 9)
    (folder / "f.json").write_bytes(json.dumps(rows, indent=1).encode())
    (folder / "g.jsonl").write_bytes(gzip.compress(body))
    (folder / "h.jsonl").write_bytes(b"a,b\n" * 600)
    made = config(folder, separator="<|end|>", max_document_bytes=800, suffixes=SUFFIXES)
    whole, _, places = read(made, tmp_path)
    monkeypatch.setattr(cutting, "SHARD_BYTES", 10**9)
    uncut, _, _ = read(made, tmp_path)
    monkeypatch.setattr(cutting, "SHARD_BYTES", size)
    assert in_shards(made, tmp_path) == (whole, places) and whole == uncut
    shards = made.shards()
    assert len(set(shards)) == len(shards) and (len(shards) > 30) == (size == 40)
    assert [p["reason"] for p in places if p["path"] == "e.jsonl"] == ["UTF-16 text, not UTF-8"]
    assert [p["reason"] for p in places if p["path"] == "h.jsonl"] == ["not JSON lines"]
    assert sum(d["path"] == "f.json" for d in whole) == sum(d["path"] == "g.jsonl" for d in whole) == 40
    with pytest.raises(DataError, match="no such shard"), Ledger(tmp_path / "x.jsonl") as ledger:
        list(made.read(ledger.of("s"), "z.txt"))


def test_a_separator_that_overlaps_itself_is_not_cut(folder, monkeypatch):
    monkeypatch.setattr(cutting, "SHARD_BYTES", 10)
    (folder / "a.txt").write_text("xabababab" * 9)
    assert len(config(folder, separator="aba").shards()) == 1
    assert len(config(folder, separator="abx").shards()) == 9


def test_fingerprints_follow_the_text(folder):
    (folder / "a.txt").write_text("one")
    before = config(folder).fingerprint()
    assert config(folder).fingerprint() == before
    (folder / "a.txt").write_text("longer")
    changed = config(folder).fingerprint()
    (folder / "b.txt").write_text("more")
    assert len({before, changed, config(folder).fingerprint()}) == 3


# ---- files: what is refused --------------------------------------------------------------------------------------


def test_each_fault_is_counted_with_its_place(folder, tmp_path):
    good = {"text": "a good line"}
    faults = {
        b'{"text": "a", "text": "b"}': "a key stands twice",
        b'{"text": NaN}': "NaN or infinity, which JSON does not have",
        b'{"text": "nul \\u0000"}': "binary data (NUL characters)",
        b'{"text": "\\ud83d"}': "a lone surrogate, which is no character",
        b'{"txet": "a"}': "no field 'text'",
        b'{"text": 5}': "the field 'text' is not text",
        b'["text"]': "not a JSON object",
        b'{"text": "cut': "not JSON",
        b'{"text": "\xff"}': "not UTF-8",
        b'{"text": "raw \x00"}': "binary data (NUL bytes)",
        b'{"text": "' + b"x" * 400 + b'"}': "longer than max_document_bytes (300)",
        b'{"a": ' + b"[" * 290 + b"1": "not JSON",
    }
    body = b"\xef\xbb\xbf" + lines(good).replace(b"\n", b"\r\n")
    tail = lines({"text": " \n"})
    for fault in faults:
        body += fault + b"\n\n" + lines(good)
    (folder / "a.jsonl").write_bytes(body + tail)
    documents, account, places = read(config(folder, max_document_bytes=300), tmp_path)
    assert [d["text"] for d in documents] == ["a good line"] * 13
    assert account["quarantined"] == Counter(faults.values()) and account["dropped"] == {"empty": 1}
    assert [p["place"].split(",")[0] for p in places] == [f"line {i}" for i in range(2, 36, 3)]
    assert [p["reason"] for p in places] == list(faults.values())


def test_whole_files_that_cannot_be_read(folder, tmp_path):
    (folder / "good.txt").write_text("fine")
    (folder / "empty.txt").write_text("")
    (folder / "blank.md").write_text(" \n\n")
    (folder / "binary.txt").write_bytes(b"\x7fELF\0\0\x01")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "utf16.jsonl").write_bytes("\ufeff{}\n{}\n".encode("utf-16-le"))
    (folder / "big.txt").write_text("x" * 5000)
    (folder / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(300).hex().encode())[:-30])
    (folder / "no.parquet").write_text("not parquet")
    os.mkfifo(folder / "pipe.txt")
    os.symlink("nowhere", folder / "dangling.txt")
    os.symlink("loop.txt", folder / "loop.txt")
    documents, account, places = read(config(folder, max_document_bytes=1000), tmp_path)
    assert [d["text"] for d in documents] == ["fine"]
    assert account["dropped"] == {"empty": 2}
    reasons = {p["path"]: p["reason"] for p in places}
    assert reasons.pop("loop.txt")  # refused by the kernel or by pathlib, in words that differ by version
    assert reasons == {
        "binary.txt": "binary data (NUL bytes)",
        "latin.txt": "not UTF-8",
        "utf16.jsonl": "UTF-16 text, not UTF-8",
        "big.txt": "longer than max_document_bytes (1,000)",
        "cut.txt.gz": "compressed data is cut short",
        "no.parquet": "not readable as Parquet",
        "pipe.txt": "not a regular file",
        "dangling.txt": "cannot be read: No such file or directory",
    }


def test_lines_before_a_truncation_are_kept(folder, tmp_path):
    rows = [{"text": os.urandom(200).hex()} for _ in range(2000)]
    for suffix, packed in [(".gz", gzip.compress(lines(*rows))), (".zst", zstandard.compress(lines(*rows)))]:
        (folder / f"a.jsonl{suffix}").write_bytes(packed[: len(packed) // 2])
    documents, account, places = read(config(folder), tmp_path)
    for suffix in (".gz", ".zst"):
        got = [d["text"] for d in documents if d["path"].endswith(suffix)]
        assert 500 < len(got) < 1500 and got == [r["text"] for r in rows[: len(got)]]
    assert account["quarantined"] == {"compressed data is cut short": 2} and len(places) == 2


def test_bombs_are_given_up(folder, tmp_path):
    with gzip.open(folder / "a.jsonl.gz", "wb") as f:
        f.write(lines({"text": "before"}))
        for _ in range(64):
            f.write(b" " * (1 << 20))
    documents, account, _ = read(config(folder), tmp_path)
    assert [d["text"] for d in documents] == ["before"]
    assert account["quarantined"] == {"inflates to more than 200 times its size": 1}
    _, account, _ = read(config(folder, max_ratio=5000), tmp_path)  # then it is but one long line
    assert account["quarantined"] == {"longer than max_document_bytes (10,000,000)": 1}
    _, account, _ = read(config(folder, max_inflated_bytes=1000, max_ratio=5000), tmp_path)
    assert account["quarantined"] == {"inflates to more than 1,000 bytes": 1}


def test_a_folder_of_links_is_read_and_each_folder_once(folder, tmp_path):
    """As the hub's cache lays a dataset out: names in a snapshot, bytes elsewhere."""
    (tmp_path / "blobs").mkdir()
    for name in ("b1", "b2"):
        (tmp_path / "blobs" / name).write_bytes(lines({"text": name}))
    (folder / "data").mkdir()
    os.symlink("../blobs/b1", folder / "train-0.jsonl")
    os.symlink("../../blobs/b2", folder / "data" / "train-1.jsonl")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "c.txt").write_text("far")
    (tmp_path / "far" / ".hidden.txt").write_text("hidden")
    os.symlink(tmp_path / "far", folder / "linked")
    os.symlink(tmp_path / "far", folder / "linked again")
    os.symlink("data", folder / "alias")  # read under its own name
    os.symlink("..", folder / "data" / "up")  # a circle
    os.symlink(tmp_path, folder / "round")  # another, through the folder's parent
    documents, account, _ = read(config(folder), tmp_path)
    assert [(d["path"], d["text"]) for d in documents] == [
        ("data/train-1.jsonl", "b2"),
        ("linked/c.txt", "far"),
        ("train-0.jsonl", "b1"),
    ]
    assert not account["quarantined"]
    before = config(folder).fingerprint()
    (tmp_path / "blobs" / "b1").write_bytes(lines({"text": "another"}))
    assert config(folder).fingerprint() != before  # what a link leads to counts


def test_files_that_are_passed_over_are_counted(folder, tmp_path):
    for name in ["a.txt", "b.PDF", "c.pdf", "d.docx", "sub/e.tar.gz", "sub/.f.txt", ".git/x", ".git/y/z", "Makefile"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    made = config(folder)
    _, account, _ = read(made, tmp_path)
    assert account["passed_over"] == {".pdf": 2, ".docx": 1, ".tar.gz": 1, "hidden": 3, "no suffix": 1}
    assert account["in"] == account["kept"] == 1
    assert list(beside(account)) == ["8 files not read (hidden 3, .pdf 2, .docx 1, .tar.gz 1, no suffix 1)"]
    assert not read(config(folder / "a.txt"), tmp_path)[1]["passed_over"]


def test_file_names_that_are_not_text(folder, tmp_path):
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("text")
    documents, _, _ = read(config(folder), tmp_path)
    assert [d["path"] for d in documents] == [r"caf\xe9.txt"]


def test_missing_and_empty_sources_name_what_is_there(folder):
    (folder / "corpus.html").write_text("<p>")
    with pytest.raises(DataError, match=r"no such file or folder\. Did you mean 'in'\?"):
        config(folder.parent / "inn" / "x.txt").fingerprint()
    with pytest.raises(DataError, match=r"Did you mean 'corpus.html'"):
        config(folder / "corpus.htm").fingerprint()
    with pytest.raises(DataError, match=r"suffix that is read; there are \.html \(1\)"):
        config(folder).fingerprint()
    with pytest.raises(DataError, match=r"no file matches this pattern; there are \.html"):
        config(folder / "*.txt").fingerprint()


def test_objects_that_lost_the_line_break_between_them_are_read(folder, tmp_path):
    """As `cat` leaves them where a file has no last line break."""
    body = b'{"text": "\xc3\xa9"}\n{"text": "b"}{"text": "c"} {"text": "d"}\n'
    body += b'{"text": "e"}{"text": 5}\n{"text": "f"}{"\n'
    (folder / "a.jsonl").write_bytes(body)
    documents, account, _ = read(config(folder), tmp_path)
    assert [d["text"] for d in documents] == ["\u00e9", "b", "c", "d", "e"]
    assert [json.loads(body[d["start"] : d["stop"]])["text"] for d in documents] == [d["text"] for d in documents]
    assert sum(account["quarantined"].values()) == 2  # text that is a number, and a line that is no object
    (folder / "a.jsonl").write_bytes(b'{"text": "b"}{"text": "c"}\n{"text": "d"}\n{\n')
    documents, account, _ = read(config(folder), tmp_path)
    assert [d["text"] for d in documents] == ["b", "c", "d"] and sum(account["quarantined"].values()) == 1


def test_the_first_fault_can_stop_the_run(folder, tmp_path):
    (folder / "a.jsonl").write_bytes(lines({"text": "a"}) + b"{\n")
    with pytest.raises(DataError) as err:
        read(config(folder), tmp_path, on_error="raise")
    assert err.value.where.startswith(f"{folder}/a.jsonl, line 2") and "not JSON" in err.value.what


def _is_good(line: bytes) -> bool:
    """Independent judgement of a line of the mutation test: objects with one string `text`, nothing strange."""
    try:
        text = line.decode()
        pairs = json.loads(text, object_pairs_hook=list, parse_constant=lambda c: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    if not isinstance(pairs, list) or not text.lstrip().startswith("{"):
        return False
    values = [v for k, v in pairs if k == "text"]
    keys = [k for k, _ in pairs]
    return len(set(keys)) == len(keys) and len(values) == 1 and type(values[0]) is str and "\0" not in values[0] + text


def _parts(line: bytes) -> list[bytes]:
    """The line, or its objects where they lost the line break between them: another brace opens at depth 0."""
    depth, quoted, escaped, cuts = 0, False, False, [0]
    for at, c in enumerate(line):
        if escaped or (quoted and c == 0x5C):
            escaped = not escaped
        elif c == 0x22:
            quoted = not quoted
        elif not quoted and c in b"{}":
            if c == 0x7B and depth == 0 and line[:at].strip():
                cuts.append(at)
            depth += 1 if c == 0x7B else -1
    parts = [line[a:b].strip(b" \t\r,") for a, b in zip(cuts, [*cuts[1:], len(line)], strict=True)]
    return parts if len(parts) > 1 and all(map(_is_object, parts)) else [line]


MUTATION = st.tuples(
    st.integers(0, 10**6), st.sampled_from([b"", b'"', b"{", b"}", b"\xff", b"\0", b"N", b"\\", b",", b"1"])
)


@settings(max_examples=150)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": st.text(min_size=1).filter(str.strip), "n": st.integers()}), min_size=1
    ),
    mutations=st.lists(MUTATION, max_size=6),
    packing=st.sampled_from([("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)]),
)
def test_mutated_lines_are_rejected_exactly(rows, mutations, packing, tmp_path_factory):
    body = lines(*rows)
    for at, new in mutations:  # replace, delete or insert a byte
        at %= len(body) + 1
        body = body[:at] + new + body[at + (len(new) == 0 or at % 2) :]
    suffix, pack = packing
    folder = tmp_path_factory.mktemp("m")
    (folder / f"a.jsonl{suffix}").write_bytes(pack(body))
    documents, account, _ = read(config(folder), tmp_path_factory.mktemp("q"))
    whole = [line for line in body.split(b"\n") if line.strip(b" \t\r\x0b\x0c\x1c\x1d\x1e\x1f")]
    whole = [part for line in whole for part in _parts(line)]
    good = [json.loads(line)["text"] for line in whole if _is_good(line)]
    good = [text.replace("\r\n", "\n").replace("\r", "\n") for text in good if _encodes(text)]
    assert [d["text"] for d in documents] == [text for text in good if text.strip()]
    faults = len(whole) - len(good) if any(map(_is_object, whole)) else min(1, len(whole))  # the file is one fault
    assert sum(account["quarantined"].values()) == faults
    assert account["in"] == max(len(good) + faults, 1)


def _is_object(line: bytes) -> bool:
    try:
        return b"\0" not in line and isinstance(json.loads(line.decode()), dict)
    except ValueError:
        return False


def _encodes(text):
    try:
        return bool(text.encode()) or True
    except UnicodeEncodeError:
        return False


# ---- the standard library ----------------------------------------------------------------------------------------

MODULE = b'''#!/usr/bin/env python
# -*- coding: utf-8 -*-
"""Module docstring that has
   several words.
"""
import os  # noqa: F401

# A comment block that explains
# what follows in two lines.
# -----------------------------

class A:
    """Only a docstring here, nothing else."""

class B(A):
    "One line about B with words."

    x = 1; "not a docstring"
    #: What y is, in four words
    y = """# not a comment


  \t
"""

    def f(self):
        """Doc of f is this one.

        >>> B().f()
        'hash # in a string'

        After the example.
        """
        # return os.path.join(self.x, other)
        return 'hash # in a string'  # trailing words are kept also

    async def g(self): "short"

if A:
    """A bare string, which says something."""
else:
    # TODO
    pass
'''


def without_bare_strings(source):
    """Reference by syntax tree: docstrings and other bare strings removed, `pass` where nothing is left."""
    tree = ast.parse(source)
    for node in list(ast.walk(tree)):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                kept = [
                    s
                    for s in block
                    if not (
                        isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str)
                    )
                ]
                alone = [ast.Pass()] if block and not kept and not isinstance(node, ast.Module) else []
                setattr(node, name, kept or alone)
    return ast.dump(tree)


def test_code_and_prose_of_a_module():
    module = Module(MODULE)
    assert (
        module.code()
        == '''import os


class A:
    pass

class B(A):
    x = 1; "not a docstring"
    y = """# not a comment


  \t
"""

    def f(self):
        return 'hash # in a string'

    async def g(self): "short"

if A:
    pass
else:
    pass
'''
    )
    assert (
        module.prose()
        == """Module docstring that has
several words.

A comment block that explains
what follows in two lines.

Only a docstring here, nothing else.

One line about B with words.

What y is, in four words

Doc of f is this one.

After the example.

trailing words are kept also

A bare string, which says something.
"""
    )


def _library(pattern):
    root = Path(sysconfig.get_path("stdlib"))
    return [pytest.param(p, id=p.name) for p in sorted(root.glob(pattern))]


@pytest.mark.parametrize("path", [*_library("[abc]*.py"), *_library("email/*.py")])
def test_real_modules_keep_their_syntax_tree_and_lose_their_comments(path):
    module = Module(path.read_bytes())
    code = module.code()
    assert ast.dump(ast.parse(code)) == without_bare_strings(path.read_bytes())
    kinds = {t.type for t in tokenize.generate_tokens(io.StringIO(code).readline)}
    assert tokenize.COMMENT not in kinds
    whole = ast.get_docstring(ast.parse(path.read_bytes()))
    if whole and ">>>" not in whole and len(whole.split()) > 4:
        assert module.prose().startswith(whole[:30].rstrip()) or path.read_bytes().startswith(b"#")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of five modules in place of the real one."""
    root = tmp_path / "lib"
    (root / "test").mkdir(parents=True)
    (root / "site-packages").mkdir()
    (root / "a.py").write_bytes(MODULE)
    (root / "bad.py").write_text("def (:\n")
    (root / "encoded.py").write_bytes(b"# coding: no-such-codec\nx = 1\n")
    (root / "empty.py").write_text("")
    (root / "table.py").write_text("t = {\n" + "".join(f"    0x{i:05x}: 'value {i}',\n" for i in range(900)) + "}\n")
    (root / "test" / "t.py").write_text("x = 1\n")
    (root / "site-packages" / "other.py").write_text("x = 1\n")
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(root))
    return root


def test_modules_are_counted_one_by_one(library, tmp_path):
    documents, account, places = read(stdlib.Config(part="code"), tmp_path)
    assert [d["path"] for d in documents] == ["a.py"]
    assert account["dropped"] == {"no code": 1, "data table": 1}
    assert [p["path"] for p in places] == ["bad.py", "encoded.py"] and account["in"] == 5
    assert json.loads(documents[0]["metadata"])["module"] == "a"
    documents, account, _ = read(stdlib.Config(part="prose"), tmp_path)
    assert [d["path"] for d in documents] == ["a.py"] and account["dropped"] == {"hardly any prose": 2}
    documents, _, _ = read(stdlib.Config(tests=True), tmp_path)
    assert [d["path"] for d in documents] == ["a.py", "test/t.py"]


def test_the_library_is_found_again_by_its_fingerprint(library):
    before = stdlib.Config().fingerprint()
    assert stdlib.Config().fingerprint() == before != stdlib.Config(tests=True).fingerprint()
    (library / "b.py").write_text("y = 2\n")
    assert stdlib.Config().fingerprint() != before
    for path in library.rglob("*.py"):
        path.unlink()
    with pytest.raises(DataError, match="without the source"):
        stdlib.Config().fingerprint()


def test_the_two_domains_of_the_real_library_share_no_line(tmp_path):
    """On a slice of the library: no line of prose of some length stands in the code."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.glob("asyncio/*.py"))[:12]:
        module = Module(path.read_bytes())
        code = set(map(str.strip, module.code().split("\n")))
        shared = {line for line in map(str.strip, module.prose().split("\n")) if len(line) > 25} & code
        assert not shared


def test_recipes_find_both_sources_by_name():
    assert {"stdlib", "files"} <= set(names("source"))
    assert isinstance(resolve("source", "stdlib"), stdlib.Config)
    with pytest.raises(RecipeError, match="path"):
        resolve("source", {"use": "files"})
    with pytest.raises(RecipeError, match=r"part.*'code' or 'prose'"):
        resolve("source", {"use": "stdlib", "part": "tests"})
