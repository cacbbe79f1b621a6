"""Datasets saved on disk, as Parquet and as `save_to_disk` writes them; documents of a data run."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.data.document import SCHEMA, Document, Ledger, batches
from tilth.data.source import curated, hub

datasets = pytest.importorskip("datasets")
ROWS = [
    {"text": "one", "id": 1, "url": "https://a.org/1", "date": "2024-05-01", "lang": "en"},
    {"text": "two\r\nlines", "id": 2, "url": None, "date": None, "lang": "de"},
    {"text": "", "id": 3, "url": None, "date": None, "lang": "de"},
    {"text": "x" * 200, "id": 4, "url": None, "date": None, "lang": "de"},
    {"text": "five", "id": 1, "url": None, "date": None, "lang": "de"},
    {"text": "six", "id": 6, "url": None, "date": "9999-01-01", "lang": "de"},
    {"text": None, "id": 7, "url": None, "date": None, "lang": "de"},
    {"text": "n\0l", "id": 8, "url": None, "date": None, "lang": "de"},
    {"text": "last", "id": 9, "url": None, "date": None, "lang": "fr"},
]
FIELDS = {"id_field": "id", "url_field": "url", "date_field": "date", "metadata_fields": ["lang"]}


def read(config, tmp_path):
    with Ledger(tmp_path / "q.jsonl") as ledger:
        rows = [row for batch in config.read(ledger.of("s")) for row in batch.to_pylist()]
        ledger.read("s", len(rows))
        ledger.keep("s", len(rows), 0)
        ledger.check()
    return rows, ledger.to_dict()["s"]


@pytest.fixture(params=["parquet", "saved", "saved dict", "json", "json array"])
def folder(request, tmp_path):
    path = tmp_path / "set"
    if request.param == "parquet":
        path.mkdir()
        pq.write_table(pa.Table.from_pylist(ROWS), path / "train-00000.parquet")
    elif request.param.startswith("json"):
        path.mkdir()
        lines = "\n".join(map(json.dumps, ROWS))
        array = json.dumps(ROWS, indent=2)
        (path / "train-00000.json").write_text(array if "array" in request.param else lines, encoding="utf-8")
    else:
        made = datasets.Dataset.from_list(ROWS)
        (made if request.param == "saved" else datasets.DatasetDict({"train": made})).save_to_disk(str(path))
    return path


def test_rows_become_documents_and_faults_are_counted(folder, tmp_path):
    config = validate(hub.Config, {"path": str(folder), "max_document_bytes": 100, **FIELDS})
    documents, account = read(config, tmp_path)
    assert [(d["id"], d["text"], d["url"], d["date"]) for d in documents] == [
        ("s:1", "one", "https://a.org/1", "2024-05-01"),
        ("s:2", "two\nlines", "", ""),
        ("s:6", "six", "", ""),
        ("s:9", "last", "", ""),
    ]
    assert json.loads(documents[3]["metadata"]) == {"row": 9, "lang": "fr"} and documents[0]["path"] == "set/train"
    assert account["warnings"] == {"a date beyond all reason": 1}
    assert account["dropped"] == {"empty": 1}
    assert account["quarantined"] == {
        "longer than max_document_bytes (100)": 1,
        "a 'id' that stood before": 1,
        "no field 'text'": 1,
        "binary data (NUL characters)": 1,
    }
    first = validate(hub.Config, {"path": str(folder), "max_documents": 2})
    assert [d["text"] for d in read(first, tmp_path)[0]] == ["one", "two\nlines"]
    before = config.fingerprint()
    next(p for p in folder.rglob("*") if p.is_file()).touch()
    assert config.fingerprint() != before


def test_what_is_missing_is_named(folder, tmp_path):
    config = validate(hub.Config, {"path": str(folder), "text_field": "body"})
    if list(folder.glob("*-*.json")):
        assert read(config, tmp_path)[1]["quarantined"] == {"no field 'body'": 9}  # lines need not be alike
    else:
        with pytest.raises(DataError, match=r"no column 'body'.*(\n|.)*Its columns are text, id"):
            read(config, tmp_path)
    with pytest.raises(DataError, match="cannot be"):
        validate(hub.Config, {"path": "nobody/nothing-of-the-kind"}).fingerprint()


def test_a_dataset_with_a_program_is_not_run(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(DataError):
        read(validate(hub.Config, {"path": str(folder)}), tmp_path)
    assert not (tmp_path / "ran").exists()


EXACT = [
    {"text": "007", "id": "1.50", "date": "2024-05-01T10:00:00+02:00", "n": 2**63 + 1, "x": "true"},
    {"text": "true", "id": "01", "date": "2024-05-01", "n": 2**53 + 1, "x": None},
    {"text": "1.50", "id": "NA", "date": "2024", "n": 1, "x": "NA"},
    {"text": "NA", "id": 12345678901234567890, "date": "20240501", "n": 0.1, "x": {"a": [1, "2024-05-01T10:00:00Z"]}},
]


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.jsonl.gz", "data/train-0.jsonl"])
def test_values_of_json_are_what_the_file_says(name, tmp_path):
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    data = "\n".join(map(json.dumps, EXACT)).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "set" / "notes.pdf").write_bytes(b"%PDF")
    config = validate(
        hub.Config, {"path": str(tmp_path / "set"), **FIELDS, "url_field": None} | {"metadata_fields": ["n", "x"]}
    )
    documents, account = read(config, tmp_path)
    assert [d["text"] for d in documents] == ["007", "true", "1.50", "NA"]
    assert [d["id"] for d in documents] == ["s:1.50", "s:01", "s:NA", "s:12345678901234567890"]
    assert [d["date"] for d in documents] == ["2024-05-01T08:00:00Z", "2024-05-01", "2024", "2024-05-01"]
    for i, document in enumerate(documents):
        assert json.loads(document["metadata"]) == {"row": i + 1, "n": EXACT[i]["n"], "x": EXACT[i]["x"]}
    assert account["passed_over"] == {".pdf": 1} and not account["warnings"]


def test_columns_that_look_like_an_agents_trace_are_columns(tmp_path):
    names = "harness session_id traces type sessionId uuid parentUuid message messages timestamp cwd payload".split()
    (tmp_path / "set").mkdir()
    rows = [{"text": f"line {i}", **dict.fromkeys(names, "x")} for i in range(3)]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents, _ = read(validate(hub.Config, {"path": str(tmp_path / "set"), "metadata_fields": ["type"]}), tmp_path)
    assert [d["text"] for d in documents] == ["line 0", "line 1", "line 2"]


def test_columns_of_csv_are_text(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("text,id,n\n007,01,1\nNA,1.50,2\ntrue,x,\n")
    config = validate(hub.Config, {"path": str(tmp_path / "set"), "id_field": "id", "metadata_fields": ["n"]})
    documents, _ = read(config, tmp_path)
    assert [(d["id"], d["text"]) for d in documents] == [("s:01", "007"), ("s:1.50", "NA"), ("s:x", "true")]


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "abc" / "data").mkdir(parents=True)
    (tmp_path / "blobs" / "b1").write_text('{"text": "one"}\n')
    (tmp_path / "snapshots" / "abc" / "data" / "train-0.jsonl").symlink_to("../../../blobs/b1")
    documents, _ = read(validate(hub.Config, {"path": str(tmp_path / "snapshots" / "abc")}), tmp_path)
    assert [d["text"] for d in documents] == ["one"]


def test_a_part_of_a_dataset_is_not_taken_for_the_dataset(tmp_path, monkeypatch):
    """A connection that breaks off while rows come from the hub."""

    class Rows:
        column_names = ["text"]

        def select_columns(self, names):
            return self

        def __iter__(self):
            yield {"text": "one"}
            raise ConnectionError("https://hub/x?token=secret broke off")

    config = validate(hub.Config, {"path": "owner/name", "revision": "0" * 40})
    monkeypatch.setattr(hub.Config, "_rows", lambda self, ledger: self._of_table(Rows(), ledger))
    with pytest.raises(DataError, match="cannot be read further than row 1") as err:
        read(config, tmp_path)
    assert "secret" not in str(err.value)


# ---- documents of a data run -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    dir = tmp_path / "run"
    for tier, names in {"L1": "abc", "L2": "de"}.items():
        (dir / "documents" / tier).mkdir(parents=True)
        for i, some in enumerate((names[:2], names[2:])):
            made = [Document(c, f"text {c}", "crawl", "p", '{"lang": "en"}', licence=c) for c in some]
            table = pa.Table.from_batches(batches(made), SCHEMA)
            for column, value in (("tier", tier), ("parent", "")):
                table = table.append_column(column, pa.array([value] * len(table), pa.string()))
            pq.write_table(table, dir / "documents" / tier / f"part-{i:05d}.parquet")
    (dir / "identity.json").write_text('{"recipe": 1}')
    monkeypatch.setattr("tilth.data.engine.directory.result", lambda path: dir)
    return dir


def test_documents_of_a_data_run_by_tier(run, tmp_path):
    config = validate(curated.Config, {"path": str(run)})
    documents, account = read(config, tmp_path)
    assert [d["id"] for d in documents] == list("abc") and account["in"] == 3
    assert json.loads(documents[0]["metadata"]) == {"lang": "en", "source": "crawl", "tier": "L1"}
    assert documents[0]["source"] == "s" and documents[0]["licence"] == "a"
    both = validate(curated.Config, {"path": str(run), "tiers": ["L2", "L1"], "where": {"licence": ["a", "d"]}})
    documents, account = read(both, tmp_path)
    assert [d["id"] for d in documents] == ["d", "a"] and account["dropped"] == {"where": 3}
    assert [
        d["id"] for d in read(validate(curated.Config, {"path": str(run), "where": {"lang": "de"}}), tmp_path)[0]
    ] == []
    with Ledger(tmp_path / "q") as ledger:
        shards = [[d["id"] for b in config.read(ledger.of("s"), s) for d in b.to_pylist()] for s in config.shards()]
    assert shards == [["a", "b"], ["c"]]
    assert config.fingerprint() != both.fingerprint()
    with pytest.raises(DataError, match=r"no documents of L3\.(.|\n)*L1, L2"):
        validate(curated.Config, {"path": str(run), "tiers": ["L3"]}).fingerprint()
    (run / "documents" / "L1" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        read(config, tmp_path)
