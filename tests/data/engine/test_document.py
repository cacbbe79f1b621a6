"""The books balance, batches are bounded, and nothing shown from data can act on a terminal."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.data.document import (
    BATCH_BYTES,
    BATCH_DOCUMENTS,
    EXAMPLES,
    LISTED,
    SCHEMA,
    Document,
    Ledger,
    batches,
    document_id,
    excerpt,
    text_key,
)

EVENTS = st.lists(
    st.tuples(st.sampled_from(["keep", "drop", "skip", "quarantine"]), st.sampled_from("ab"), st.sampled_from("xyz"))
)


@given(events=EVENTS)
def test_ledger_counts_every_event_once(events, tmp_path_factory):
    want = {s: Counter() for s in "ab"}
    with Ledger(tmp_path_factory.mktemp("l") / "q.jsonl") as ledger:
        of = {s: ledger.of(s) for s in "ab"}
        for kind, source, reason in events:
            want[source]["in"] += 1
            want[source][kind, reason if kind != "keep" else ""] += 1
            if kind == "keep":
                ledger.read(source, 1)
                ledger.keep(source, 1, 10)
            elif kind == "drop":
                ledger.read(source, 1)
                ledger.drop(source, "p", reason, "text")
            elif kind == "skip":
                of[source].skip("p", reason)
            else:
                of[source].quarantine("p", "line 1", reason, b"\xff")
        ledger.check()
    for source, account in ledger.to_dict().items():
        w = want[source]
        assert account["in"] == w["in"] and account["kept"] == w["keep", ""]
        assert account["kept_bytes"] == 10 * account["kept"]
        for r in "xyz":
            assert account["dropped"].get(r, 0) == w["drop", r] + w["skip", r]
            assert account["quarantined"].get(r, 0) == w["quarantine", r]
        assert account["in"] == account["kept"] + sum(account["dropped"].values()) + sum(
            account["quarantined"].values()
        )


@pytest.mark.parametrize("read, kept", [(3, 2), (2, 3)])
def test_lost_or_invented_documents_are_noticed(read, kept, tmp_path):
    with Ledger(tmp_path / "q.jsonl") as ledger:
        ledger.of("web")
        ledger.read("web", read)
        ledger.keep("web", kept, 0)
        with pytest.raises(DataError, match=r"data\.sources\.web.*loses or invents"):
            ledger.check()


def test_examples_and_listed_places_are_bounded_while_counts_are_not(tmp_path):
    with Ledger(tmp_path / "q.jsonl") as ledger:
        books = ledger.of("a")
        for i in range(LISTED + 5):
            books.skip(f"p{i}", "dull", "x" * 10_000)
            books.quarantine("f", f"line {i}", "bad", b"\x1b[31m\xff")
    account = ledger.to_dict()["a"]
    assert account["dropped"] == {"dull": LISTED + 5} and account["quarantined"] == {"bad": LISTED + 5}
    assert [e["path"] for e in account["examples"]["dull"]] == [f"p{i}" for i in range(EXAMPLES)]
    assert all(len(e["text"]) < 500 for e in account["examples"]["dull"])
    rows = (tmp_path / "q.jsonl").read_bytes()
    assert rows.count(b"\n") == LISTED and rows.isascii() and b"\x1b" not in rows
    first = json.loads(rows.split(b"\n")[0])
    assert first["place"] == "line 0" and first["excerpt"] == r"\x1b[31m\xff"


def test_a_recipe_may_ask_to_stop_at_the_first_fault(tmp_path):
    with Ledger(tmp_path / "q.jsonl", on_error="raise") as ledger:
        books = ledger.of("a").within(Path("/data/set"))
        with pytest.raises(DataError) as err:
            books.quarantine("x.jsonl", "line 7", "not JSON")
    assert err.value.where == "/data/set/x.jsonl, line 7" and "not JSON" in err.value.what


@given(text=st.text(), limit=st.integers(0, 50))
def test_excerpts_hold_only_printable_characters(text, limit):
    shown = excerpt(text, limit)
    assert all(c.isprintable() or c == "\n" for c in shown)
    if len(text) <= limit and text.isprintable():
        assert shown == text


def test_excerpt_escapes_what_reorders_or_steers():
    assert excerpt("a\x1b[2J\u202eb\x9b\r") == r"a\x1b[2J\u202eb\x9b\r"


@given(sizes=st.lists(st.sampled_from([0, 1, 3_000_000]), max_size=30))
def test_batches_keep_order_and_close_at_their_bound(sizes):
    rows = [Document(str(i), "é" * n if n < 9 else "x" * n, "s", "p", "{}") for i, n in enumerate(sizes)]
    out = list(batches(rows))
    assert [Document(**r) for b in out for r in b.to_pylist()] == rows
    for b in out:
        assert b.schema == SCHEMA and b.num_rows > 0
        assert sum(map(len, b.column("text").to_pylist()[:-1])) < BATCH_BYTES


def test_batches_are_bounded_in_rows():
    out = list(batches(Document(str(i), "", "s", "p") for i in range(2 * BATCH_DOCUMENTS + 1)))
    assert [b.num_rows for b in out] == [BATCH_DOCUMENTS, BATCH_DOCUMENTS, 1]


def test_ids_tell_path_place_and_text_apart():
    ids = {document_id(s, p, t, n) for s in "xy" for p in "ab" for t in "ab" for n in (0, 1)}
    assert len(ids) == 16 and all(len(i) == 32 for i in ids)
    assert document_id("s", "a", "b") == document_id("s", "a", "b", 0)


def test_text_keys_ignore_space_and_composition_only():
    assert text_key("caf\u00e9  au\n\tlait ") == text_key("cafe\u0301 au lait")
    assert len({text_key(t) for t in ("a b", "ab", "A b", "a b.")}) == 4
