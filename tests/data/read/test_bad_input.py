"""Bad input of every kind the issue names: counted, quarantined with its reason, never fatal, and the books balance."""

import collections
import contextlib
import gzip
import http.server
import json
import os
import socket
import struct
import threading
import tracemalloc
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.core.text import bare_urls
from tilth.data.document import Ledger
from tilth.data.read import remote
from tilth.data.source import files, warc


def read(tmp_path, path, kind=files, **knobs):
    """Documents and the account of a source; the ledger's own check proves in = kept + dropped + quarantined."""
    config = validate(kind.Config, {"path": str(path), **knobs})
    with Ledger(tmp_path / "q.jsonl") as ledger:
        rows = [row for batch in config.read(ledger.of("s")) for row in batch.to_pylist()]
        ledger.read("s", len(rows))
        ledger.keep("s", len(rows), 0)
        ledger.check()
    return rows, ledger.to_dict()["s"]


def lines(*rows):
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_one_folder_with_everything(folder, tmp_path):
    good = {"text": "good", "id": "1", "date": "2024-01-01"}
    (folder / "a.jsonl").write_bytes(
        lines(good, good, {"text": "x", "id": "2", "date": "99999-99-99"}, {"text": " ", "id": "3"})
        + b'{"text": "\xff\xfe"}\n{"text": "a\x00b"}\n{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n"
        + b'{"text": "mixed\\r\\nnew\\rlines\\n", "id": "4"}\r\n{"text": "tab\\tbell\\u0007", "id": "5"}\r\n'
    )  # fmt: skip
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines({"text": "packed", "id": "6"}) * 1)[:-9])
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(b" " * 300_000_000))
    (folder / "d.parquet").write_bytes(b"PAR1" + os.urandom(99) + b"PAR1")
    pq.write_table(pa.table({"text": ["row"], "id": ["7"], "date": ["2024"]}), folder / "e.parquet")
    os.symlink("nowhere", folder / "f.txt")
    (folder / "g.jsonl").write_bytes(b"a,b\n" * 200_000)
    documents, account = read(tmp_path, folder, id_field="id", date_field="date")
    texts = [d["text"] for d in documents]
    assert texts == [
        "good",
        "x",
        "mixed\nnew\nlines\n",
        "tab\tbell\x07",
        *(["packed"] if "packed" in texts else []),
        "row",
    ]
    assert account["dropped"] == {"empty": 1}
    assert account["quarantined"] == {
        "a 'id' that stood before": 1,
        "not UTF-8": 1,
        "binary data (NUL bytes)": 1,
        "nested too deeply": 1,
        "compressed data is cut short": 1,
        "inflates to more than 200 times its size": 1,
        "not readable as Parquet": 1,
        "cannot be read: No such file or directory": 1,
        "not JSON lines": 1,
    }
    assert account["warnings"] == {"a date that cannot be read": 1}
    assert (tmp_path / "q.jsonl").read_text().isascii()  # safe to show on any terminal


def test_a_document_of_100_megabytes_is_neither_kept_nor_held(folder, tmp_path):
    with (folder / "a.jsonl").open("wb") as out:
        out.write(lines({"text": "before"}) + b'{"text": "')
        for _ in range(100):
            out.write(b"x" * 1_000_000)
        out.write(b'"}\n' + lines({"text": "after"}))
    tracemalloc.start()
    documents, account = read(tmp_path, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d["text"] for d in documents] == ["before", "after"] and peak < 60e6
    assert account["quarantined"] == {"longer than max_document_bytes (10,000,000)": 1}
    config = validate(files.Config, {"path": str(folder)})
    assert len(config.shards()) == 3  # cut in the middle of the long line, which is still counted once


def test_web_pages_in_files(folder, tmp_path):
    (folder / "a.html").write_bytes('<meta charset="windows-1251"><p>Привет, мир</p>\r\n'.encode("windows-1251"))
    (folder / "b.htm.gz").write_bytes(gzip.compress(b"<p>plain</p>"))
    (folder / "c.html").write_bytes(b"<p>nul\0</p>")
    (folder / "d.html").write_bytes(b"GIF89a" + bytes(99))
    documents, account = read(tmp_path, folder, suffixes=[".html", ".htm"], separator="<p>")
    assert [d["text"] for d in documents] == [
        '<meta charset="windows-1251"><p>Привет, мир</p>\n',
        "<p>plain</p>",
        "<p>nul</p>",
    ]
    assert json.loads(documents[0]["metadata"]) == {"content_type": "text/html", "charset": "cp1251"}
    assert account["quarantined"] == {"binary data (NUL characters)": 1}


# ---- URLs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory():
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_files_in_memory_give_what_files_here_give(memory, folder, tmp_path):
    rows = lines(*({"text": f"text {i}"} for i in range(20)))
    pq.write_table(pa.table({"text": ["in parquet"]}), folder / "e.parquet")
    packed = gzip.compress(rows)
    content = {"a.jsonl": rows, "b.jsonl.gz": packed, "sub/c.txt": b"text", ".hidden/d.txt": b"no", "x.png": b"no"}
    content |= {"e.parquet": (folder / "e.parquet").read_bytes(), "z.jsonl.gz": packed[:-20]}
    for name, data in content.items():
        memory.pipe(f"/bucket/{name}", data)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    here, account = read(tmp_path, folder)
    there, account_there = read(tmp_path, "memory://bucket")
    by_url, _ = read(tmp_path, folder.as_uri())
    assert [d["text"] for d in there] == [d["text"] for d in here] == [d["text"] for d in by_url]
    assert [d["path"] for d in there] == [f"memory://bucket/{d['path']}" for d in here]
    assert account["quarantined"] == account_there["quarantined"] == {"compressed data is cut short": 1}
    assert len(read(tmp_path, "memory://bucket/*.jsonl")[0]) == len(read(tmp_path, "memory://bucket/a.jsonl")[0]) == 20
    config = validate(files.Config, {"path": "memory://bucket"})
    before = config.fingerprint()
    memory.pipe("/bucket/a.jsonl", rows * 2)
    assert config.fingerprint() != before


def test_an_archive_in_memory(memory, tmp_path):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>page"
    head = "WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\n"
    head += f"Content-Length: {len(block)}\r\n\r\n"
    member = gzip.compress(head.encode() + block + b"\r\n\r\n")
    memory.pipe("/crawl/a.warc.gz", member + member[:20] + b"garbage" + member)
    documents, account = read(tmp_path, "memory://crawl", warc)
    assert [d["text"] for d in documents] == ["<p>page"] * 2 and account["quarantined"] == {"damaged .gz data": 1}


@pytest.mark.parametrize(
    "url, message",
    [
        ("zip://a.txt::memory://b.zip", "no protocol that is read"),
        ("reference://x", "no protocol that is read"),
        ("simplecache::memory://x", "no protocol that is read"),
        ("memory://nothing/here.txt", "cannot be listed"),
        ("https://user:secret@localhost:1/x.txt", "cannot be listed"),
    ],
)
def test_urls_that_are_refused(url, message, memory, monkeypatch):
    monkeypatch.setattr(remote, "BACK_OFF", (0.0,))
    with pytest.raises(DataError, match=message) as err:
        validate(files.Config, {"path": url}).fingerprint()
    assert "secret" not in str(err.value)
    with pytest.raises(DataError, match="cannot be mixed"):
        validate(files.Config, {"path": [".", "memory://x"]}).fingerprint()


BODY = lines(*({"text": f"line {i} over HTTP"} for i in range(4000)))


class Server(http.server.BaseHTTPRequestHandler):
    """Sends `BODY` in the way that the path names; counts the requests of each path."""

    protocol_version = "HTTP/1.1"
    met: ClassVar[collections.Counter[str]] = collections.Counter()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        how = self.path.partition("?")[0].strip("/").partition(".")[0]
        if self.command == "GET":
            self.met[how] += 1
        with contextlib.suppress(OSError):
            getattr(self, how, self.plain)()
        self.close_connection = True

    def head(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        return self.command == "GET"

    def plain(self):
        if self.head(Content_Length=len(BODY)):
            self.wfile.write(BODY)

    def ranges(self, least=0):
        """As a store of objects answers; of what is asked, the first `least` bytes at most."""
        asked = self.headers.get("Range", "")
        start, stop = (int(n) for n in asked.removeprefix("bytes=").split("-")) if asked else (0, len(BODY) - 1)
        part = BODY[start : stop + 1]
        range_ = f"bytes {start}-{start + len(part) - 1}/{len(BODY)}"
        if self.head(206 if asked else 200, Content_Length=len(part), Content_Range=range_, Accept_Ranges="bytes"):
            self.wfile.write(part[:least] if least else part)

    def cut(self):
        """Less than Content-Length, always."""
        if self.head(Content_Length=len(BODY)):
            self.wfile.write(BODY[: len(BODY) // 2])

    def cut_once(self):
        self.cut() if self.command == "GET" and self.met["cut_once"] < 3 else self.plain()

    def cut_chunks(self):
        if self.head(Transfer_Encoding="chunked"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(BODY) // 2, BODY[: len(BODY) // 2]))  # and no last chunk

    def reset(self):
        if self.head(Content_Length=len(BODY)):
            self.wfile.write(BODY[:5000])
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def silent(self):
        if self.head(Content_Length=len(BODY)):
            self.wfile.write(BODY[:5000])
            self.wfile.flush()
            self.server.over.wait(30)

    def dripping(self):
        if self.head(Content_Length=len(BODY)):
            for i in range(len(BODY)):
                self.wfile.write(BODY[i : i + 1])
                self.wfile.flush()
                if self.server.over.wait(0.1):
                    return

    def mute(self):
        self.server.over.wait(30)

    def endless(self):
        if self.head():
            self.wfile.write(b"x" * 3_000_000)

    def missing(self):
        self.head(404, Content_Length=0)

    def forbidden(self):
        self.head(403, Content_Length=0)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("aiohttp")
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("http").clear_instance_cache()
    monkeypatch.setattr(remote, "BACK_OFF", (0.0, 0.0))
    Server.met.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads, server.over = True, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:pass@127.0.0.1:{server.server_port}"
    server.over.set()
    server.shutdown()
    server.server_close()


QUERY = "?sig=SECRET&token=hush#part"


@pytest.mark.parametrize("way", ["plain", "ranges", "cut_once"])
def test_files_over_http(way, server, tmp_path):
    documents, account = read(tmp_path, f"{server}/{way}.jsonl{QUERY}")
    bare = f"{server.replace('user:pass@', '')}/{way}.jsonl"
    assert [d["text"] for d in documents] == [json.loads(line)["text"] for line in BODY.splitlines()]
    assert {d["path"] for d in documents} == {bare} and not account["quarantined"]


@pytest.mark.parametrize("way", ["cut", "cut_chunks", "reset", "silent", "dripping", "mute", "missing", "forbidden"])
def test_a_part_of_a_file_is_never_taken_for_the_file(way, server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "READ_SECONDS", 0.2)
    monkeypatch.setattr(remote, "WHOLE_SECONDS", 0.5)
    with pytest.raises(DataError) as err:
        read(tmp_path, f"{server}/{way}.jsonl{QUERY}")
    assert f"{way}.jsonl" in err.value.where and ("to its end" in err.value.what or "listed" in err.value.what)
    for secret in ("SECRET", "hush", "user", "pass@", "sig="):
        assert secret not in str(err.value) and secret not in (tmp_path / "q.jsonl").read_text()
    assert Server.met[way] == 1 if way in ("missing", "forbidden") else Server.met[way] > 2


def test_what_a_server_sends_is_bounded(server, tmp_path):
    _, account = read(tmp_path, f"{server}/endless.jsonl", max_inflated_bytes=1_500_000)
    assert account["quarantined"] == {"inflates to more than 1,500,000 bytes": 1}


@pytest.mark.parametrize(
    "text, shown",
    [
        ("path: https://u:p@h.org/a.jsonl?sig=S#f", "path: https://h.org/a.jsonl"),
        ("[https://h/a?k=S, 'http://h/b?k=S&t=1,2']", "[https://h/a, 'http://h/b']"),
        ('{"c": "tilth run x=https://h/a?k=S"}', '{"c": "tilth run x=https://h/a"}'),
        ("s3://bucket/a?b.txt and no://more", "s3://bucket/a?b.txt and no://more"),
    ],
)
def test_urls_in_reports_are_bare(text, shown):
    assert bare_urls(text) == shown


def test_urls_that_differ_in_their_queries_are_files_of_their_own(server, tmp_path):
    config = validate(files.Config, {"path": [f"{server}/plain.jsonl?part={i}" for i in (1, 2)]})
    with Ledger(tmp_path / "q.jsonl") as ledger:
        rows = [row for batch in config.read(ledger.of("s")) for row in batch.to_pylist()]
    bare = f"{server.replace('user:pass@', '')}/plain.jsonl"
    assert {r["path"] for r in rows} == {bare, f"{bare}#2"} and len({r["id"] for r in rows}) == len(rows) == 8000
    assert "part" not in "".join(config.shards())


def test_an_archive_over_http(server, tmp_path, monkeypatch):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>page"
    record = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n" % len(
        block
    )
    packed = gzip.compress(record + block + b"\r\n\r\n")
    monkeypatch.setitem(globals(), "BODY", packed + packed[:30] + b"junk" + packed)
    documents, account = read(tmp_path, f"{server}/plain.warc.gz", warc)
    assert [d["text"] for d in documents] == ["<p>page"] * 2 and account["quarantined"] == {"damaged .gz data": 1}
    with pytest.raises(DataError, match="to its end"):
        read(tmp_path, f"{server}/cut.warc.gz", warc)


# ---- the cases that were reported --------------------------------------------------------------------------------

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
RIVER, KEEPER, BREAD = "The river rose", "A lighthouse keeper", "Bread dough"
PAGES = ["The ferry", "The tram", "The car", "The bus", "The boat"]


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
@pytest.mark.parametrize(
    ("case", "texts", "warnings"),
    [
        ("chunked_header_plain_body.warc", PAGES[:1], 0),
        ("content_encoding_kept_body_plain.warc", ["already unpacked text about boats and tides"], 0),
        ("charset_in_comment.warc", ["Un café près du port"], 0),
        ("charset_in_script.warc", ["Un café près du port"], 0),
        ("content_type_no_semicolon.warc", PAGES[:1], 0),
        ("content_type_twice.warc", PAGES[:1], 0),
        ("http_header_lf_only.warc", PAGES[:1], 0),
        ("warc_header_lf_only.warc", ["The ferry", "The tram", "The bus"], 0),
        ("dictionary.warc.zst", PAGES, 0),
        ("html_with_nul.warc", ["carrying mail and bread"], 0),
        ("long_window.jsonl.zst", [RIVER, KEEPER, BREAD, "The clock"], 0),
        ("nan_in_other_field.jsonl", [RIVER, KEEPER, BREAD], 2),
        ("nan_metadata.parquet", [RIVER, KEEPER, BREAD, "The clock"], 2),
        ("string_view.parquet", [RIVER, KEEPER, BREAD, "The clock"], 0),
        ("binary_text.parquet", [RIVER, KEEPER, BREAD, "The clock"], 0),
        ("array.json", [RIVER, KEEPER, BREAD, "The clock"], 0),
        ("gzip_named_plain.jsonl", [RIVER, KEEPER, BREAD, "The clock"], 0),
    ],
)
def test_cases(case, texts, warnings, tmp_path):
    fields = {"metadata_fields": ["score"]} if "nan" in case else {}
    documents, account = read(tmp_path, CASES / case, warc if "warc" in case else files, **fields)
    assert len(documents) == len(texts) and not account["quarantined"] and not account["dropped"]
    for document, text in zip(documents, texts, strict=True):
        assert text in document["text"] and "\0" not in document["text"]
    assert sum(account["warnings"].values()) == warnings
    if case == "nan_in_other_field.jsonl":
        assert [json.loads(d["metadata"])["score"] for d in documents] == [None, 0.5, None]
