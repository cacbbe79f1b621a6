"""Web archives: the pages that fastwarc's own iterator gives of sound files, and what remains of damaged ones."""

import base64
import gzip
import hashlib
import io
import itertools
import json
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.data.document import SCHEMA, Ledger
from tilth.data.read.reading import Limits, Unreadable
from tilth.data.read.warc import Fault, Frame, frames
from tilth.data.source import warc

pytest.importorskip("fastwarc")
LIMITS = Limits(100_000, 200.0, 1 << 34)
PAGE = "<html><head><title>T</title></head><body><p>Grüße number {}, from a page</p></body></html>"


def record(number, body=None, kind="response", http=b"", url=None, extra="", date="2024-03-01T10:00:00Z", length=None):
    """One WARC record of an HTML page, as bytes."""
    body = PAGE.format(number).encode() if body is None else body
    if kind == "response":
        http = http or b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
        body, mime = http + body, "application/http; msgtype=response"
    else:
        mime = {"conversion": "text/plain", "warcinfo": "application/warc-fields"}.get(kind, "text/html")
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:00000000-{number:04d}>\r\nWARC-Date: {date}\r\n"
        f"WARC-Target-URI: {url or f'https://a.org/{number}'}\r\nContent-Type: {mime}\r\n{extra}"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


PACK = {".gz": lambda d: gzip.compress(d, mtime=0), ".zst": zstandard.compress, "": bytes}


def read(tmp_path, data, name="a.warc.gz", on_error="quarantine", **knobs):
    """Documents, the account, and the quarantined places of one file."""
    path = tmp_path / name
    path.write_bytes(data)
    config = validate(warc.Config, {"path": str(path), **knobs})
    with Ledger(tmp_path / "q.jsonl", on_error) as ledger:
        documents = []
        for batch in config.read(ledger.of("s")):
            assert batch.schema == SCHEMA
            documents += batch.to_pylist()
        ledger.read("s", len(documents))
        ledger.keep("s", len(documents), 0)
        ledger.check()
    places = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    return documents, ledger.to_dict()["s"], places


def numbers(documents):
    return [int(d["url"].rpartition("/")[2]) for d in documents]


# ---- sound files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACK)
def test_sound_files_give_the_pages_that_fastwarc_gives(suffix, tmp_path):
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    records = [
        record(0, b"software: x\r\n", "warcinfo"),
        *(record(i) for i in range(1, 40)),
        record(40, b"q", "request"),
    ]
    data = b"".join(PACK[suffix](r) for r in records)
    documents, account, _ = read(tmp_path, data, f"a.warc{suffix}")
    want = [
        (r.headers["WARC-Target-URI"], r.reader.read().decode())
        for r in ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.response)
    ]
    assert [(d["url"], d["text"]) for d in documents] == want and len(want) == 39
    assert account["in"] == 39 and not account["quarantined"]
    first = documents[0]
    assert first["id"] == "s:00000000-0001" and first["date"] == "2024-03-01T10:00:00Z"
    assert json.loads(first["metadata"]) == {"content_type": "text/html", "charset": "utf-8"}
    for d, whole in zip(documents, records[1:], strict=False):  # the bytes named are the record, by themselves
        stored = data[d["start"] : d["stop"]]
        assert {".gz": gzip.decompress, ".zst": zstandard.decompress, "": lambda b: b + b"\r\n\r\n"}[suffix](
            stored
        ) == whole


def test_records_that_were_compressed_together_have_bytes_of_the_inflated_file(tmp_path):
    data = b"".join(record(i) for i in range(9))
    documents, _, _ = read(tmp_path, gzip.compress(data))
    assert numbers(documents) == list(range(9))
    for i, d in enumerate(documents):
        assert data[d["start"] : d["stop"]] + b"\r\n\r\n" == record(i) and json.loads(d["metadata"])["inflated"] is True
    blocks = b"".join(gzip.compress(data[i : i + 100]) for i in range(0, len(data), 100))  # as bgzip does
    assert [(d["start"], d["text"]) for d in read(tmp_path, blocks)[0]] == [(d["start"], d["text"]) for d in documents]


def test_plain_texts_of_a_wet_file(tmp_path):
    text = "Ein Text.\r\nZwei Zeilen: ä."
    data = gzip.compress(record(1, text.encode(), "conversion", extra="WARC-Identified-Content-Language: deu\r\n"))
    (document,), _, _ = read(tmp_path, data, "a.warc.wet.gz")
    assert document["text"] == "Ein Text.\nZwei Zeilen: ä."
    assert json.loads(document["metadata"]) == {"content_type": "text/plain", "charset": "utf-8", "language": "deu"}


def test_shards_are_files(tmp_path):
    for name, start in [("b.warc.gz", 5), ("a.warc", 0), ("c.txt", 0)]:
        (tmp_path / name).write_bytes(
            b"".join(PACK[".gz" if name[-1] == "z" else ""](record(start + i)) for i in range(5))
        )
    config = validate(warc.Config, {"path": str(tmp_path)})
    assert config.shards() == ["a.warc", "b.warc.gz"]
    with Ledger(tmp_path / "q") as ledger:
        parts = [[u for b in config.read(ledger.of("s"), s) for u in b.to_pylist()] for s in config.shards()]
        whole = [u for b in config.read(ledger.of("s")) for u in b.to_pylist()]
    assert [numbers(p) for p in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] and [*parts[0], *parts[1]] == whole
    before = config.fingerprint()
    (tmp_path / "a.warc").write_bytes(record(1))
    assert config.fingerprint() != before
    with pytest.raises(DataError, match="no such file"), Ledger(tmp_path / "q") as ledger:
        list(config.read(ledger.of("s"), "z.warc"))


# ---- HTTP and text -----------------------------------------------------------------------------------------------


def page_of(http, body, tmp_path, **knobs):
    documents, account, _ = read(tmp_path, record(1, body, http=http), "a.warc", **knobs)
    return documents[0]["text"] if documents else {**account["dropped"], **account["quarantined"]}


HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{}\r\n"


def brotli(data):
    from fastwarc.stream_io import BrotliWriter

    out = io.BytesIO()
    out.close = lambda: None
    writer = BrotliWriter(out)
    writer.write(data)
    writer.close()
    return out.getvalue()


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    "encoding, pack",
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("zstd", zstandard.compress),
        ("br", brotli),
        ("gzip", bytes),  # the crawler unpacked it and left the header
        ("br", bytes),
        ("deflate, gzip", lambda d: gzip.compress(zlib.compress(d))),
        ("identity", bytes),
    ],
)
def test_content_encodings_are_undone(encoding, pack, tmp_path):
    page = PAGE.format(1)
    http = HEAD.format(f"Content-Encoding: {encoding}\r\n").encode()
    packed = pack(page.encode())
    assert page_of(http, packed, tmp_path) == page
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (packed[:7], packed[7:])) + b"0\r\n\r\n"
    assert page_of(http[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", chunked, tmp_path) == page


def test_content_encodings_that_hurt(tmp_path):
    def answer(encoding, body, **knobs):
        return page_of(HEAD.format(f"Content-Encoding: {encoding}\r\n").encode(), body, tmp_path, **knobs)

    huge = b"<p>" + b"x" * 30_000_000
    too_long = {"longer than max_document_bytes (1,000,000)": 1}
    for encoding, pack in [
        ("gzip", gzip.compress),
        ("br", brotli),
        ("zstd", zstandard.compress),
        ("deflate", zlib.compress),
    ]:
        assert answer(encoding, pack(huge), max_document_bytes=1_000_000) == too_long
    packed = gzip.compress(b"<p>some text" * 99)
    assert answer("gzip", packed[:-20]) == {"a content encoding that is cut short": 1}
    assert answer("gzip", packed[:10] + b"\xff" * 30) == {"a damaged content encoding": 1}
    assert answer("br", b"\xff" * 30) == {"a damaged content encoding": 1}
    assert answer("compress", b"\x1f\x9d" + bytes(99)) == {"a content encoding that is not known": 1}
    assert answer("zstd", zstandard.compress(b"<p>some text" * 99)[:-9]) == {"a content encoding that is cut short": 1}
    assert answer("gzip", gzip.compress(b"") + packed[:-20]) == {"a content encoding that is cut short": 1}


def members(pack):
    """Half a megabyte in several members, the first of 1,500 bytes."""
    page = (PAGE.format(1) + "<p>more words</p>" * 30_000).encode()
    return page.decode(), pack(page[:1500]) + b"".join(
        pack(page[i : i + 99_999]) for i in range(1500, len(page), 99_999)
    )


@pytest.mark.parametrize("coding, pack", [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_all_members_of_a_body_are_read(coding, pack, tmp_path):
    page, packed = members(pack)
    assert page_of(HEAD.format(f"Content-Encoding: {coding}\r\n").encode(), packed, tmp_path) == page
    assert page_of(HEAD.format("").encode(), packed + b"\0" * 9, tmp_path) == page  # the bytes say how it is packed
    assert page_of(HEAD.format("Content-Encoding: deflate, br\r\n").encode(), packed, tmp_path) == page


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "compress", "gzip, br", "x-unheard-of"])
@pytest.mark.parametrize(
    "body", ["plain text about boats and tides", "<p>a page", "Grüße aus 東京", "f00\nis no chunk"]
)
def test_a_body_that_is_not_packed_is_text_whatever_the_header_says(coding, body, tmp_path):
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Encoding: {coding}\r\n\r\n"
    assert page_of(http.encode(), body.encode(), tmp_path) == body


CHUNKED = HEAD.format("Transfer-Encoding: chunked\r\n").encode()


@pytest.mark.parametrize(
    "body, want",
    [
        (b"<html>no chunks at all</html>", "<html>no chunks at all</html>"),
        (b"zz\r\nhello", "zz\nhello"),
        (b"5\r\n<p>he\r\n3\r\nllo\r\n0\r\n\r\n", "<p>hello"),
        (b"5 ; name=x\n<p>he\n0003\nllo\n0\nTrailer: x\n\n", "<p>hello"),
        (b"B  \r\n<p>hello\r\n\r\r\n0\r\n\r\n", "<p>hello\n\n"),
        (b"8\r\n<p>hello\r\n0", {"a chunked body whose sizes do not fit": 1}),
        (b"8\r\n<p>hello\r\n", {"a chunked body that is cut short": 1}),
        (b"ff\r\n<p>hello\r\n0\r\n\r\n", {"a chunked body that is cut short": 1}),
        (b"3\r\n<p>hello\r\n0\r\n\r\n", {"a chunked body whose sizes do not fit": 1}),
    ],
)
def test_chunks(body, want, tmp_path):
    assert page_of(CHUNKED, body, tmp_path) == want


@pytest.mark.parametrize(
    "http",
    [
        "HTTP/1.1 200 OK\nContent-Type: text/html; charset=windows-1251\n\n",
        "HTTP/1.1 200 OK\r\ncontent-type:text/html;charset=windows-1251\r\n\r\n",
        'HTTP/1.1 200 OK\r\nCONTENT-TYPE : text/html ; Charset = "windows-1251"\r\n\r\n',
        "HTTP/1.1 200 OK\r\nContent-Type: text/html;\r\n\tcharset=windows-1251\r\n\r\n",
        "HTTP/1.1 200 OK\rContent-Type: text/html; charset=windows-1251\r\r",
        "\r\nHTTP/1.0  200\r\r\nContent-Type: text/html charset=windows-1251\r\r\n\r\r\n",
        "HTTP/2 200\r\nno colon here\r\n: x\r\nContent-Type: text/html, text/html; charset=windows-1251\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Type: text/html; charset=windows-1251\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: ;;; charset=windows-1251\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: html\r\nX: charset=koi8-r\r\n\r\n<meta charset=windows-1251>",
    ],
)
def test_headers_are_read_as_browsers_read_them(http, tmp_path):
    html = "<html><p>Быстрая коричневая лиса прыгает через ленивую собаку</p>"
    head, mark, meta = http.partition("<meta")
    got = page_of(head.encode(), (mark + meta).encode() + html.encode("windows-1251"), tmp_path)
    assert isinstance(got, str) and got.endswith(html)


def test_a_header_without_an_end_is_named(tmp_path):
    assert page_of(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", b"<p>x", tmp_path) == {
        "an HTTP header that does not end": 1
    }


@pytest.mark.parametrize("change", [lambda h: h.replace(b"\r\n", b"\n"), bytes.lower, bytes.upper])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_warc_headers_are_as_tolerant(change, pack, tmp_path):
    parts = []
    for i in range(3):
        head, _, rest = record(i).partition(b"\r\n\r\n")
        first, _, fields = head.partition(b"\r\n")
        changed = [
            change(name) + b": " + value for name, _, value in (f.partition(b":") for f in fields.split(b"\r\n"))
        ]
        parts.append(pack(b"\n".join([first, *changed, b"", rest])))
    documents, account, _ = read(tmp_path, b"".join(parts), "a.warc")
    assert numbers(documents) == [0, 1, 2] and not account["quarantined"]


@pytest.mark.parametrize(
    "header, html, encoding",
    [
        ("text/html; charset=iso-8859-1", "<p>Grüße “x” €</p>", "windows-1252"),  # as WHATWG maps it
        ("text/html; charset=UTF-8", "<p>Grüße</p>", "utf-8"),
        ("text/html; charset=iso-8859-1", "<p>Grüße — 日本</p>", "utf-8"),  # declared wrongly
        ("text/html", '<meta charset="windows-1251"><p>Привет, мир</p>', "windows-1251"),
        (
            "text/html",
            '<meta http-equiv=Content-Type content="text/html; charset=Shift_JIS"><p>日本語</p>',
            "shift_jis",
        ),
        (
            "text/html",
            "<p>Быстрая коричневая лиса прыгает через ленивую собаку и бежит дальше в лес</p>",
            "windows-1251",
        ),
        ("text/html; charset=utf-8", "\ufeff<p>mark</p>", "utf-16-le"),
        ("text/html; charset=nonsense", "<p>ascii</p>", "utf-8"),
        ("text/html; charset=unicode_escape", "<p>\\x41</p>", "utf-8"),  # Python's own codecs are no charsets
    ],
)
def test_charsets(header, html, encoding, tmp_path):
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {header}\r\n\r\n".encode()
    assert page_of(http, html.encode(encoding), tmp_path) == html.removeprefix("\ufeff")


META = '<meta charset="koi8-r">'


@pytest.mark.parametrize(
    "before",
    [
        f"<!-- {META} -->",
        f"<!-->--!><!-- -- > {META} -->",
        f"<script>var s = '{META}';</script>",
        f"<SCRIPT\n>if (1 </scripts>2) {META}</script >",
        f"<style>{META}</style><title>{META}</title><textarea>{META}</textarea>",
        "<meta name=description content='text/html; charset=koi8-r'><p data-x='charset=koi8-r'>",
        f"<p title='{META}'><a href=x?charset=koi8-r>",
        "<![CDATA[ <meta charset=koi8-r ]]>",
        f"<noscript>{META}</noscript>",
        "<meta http-equiv=refresh content='0; charset=koi8-r'>",
        "<meta x-charset=koi8-r><metadata charset=koi8-r></meta charset=koi8-r>",
        "<meta charset=no-such-thing-at-all >"[:0] + f"<xmp>{META}</xmp><iframe>{META}</iframe>",
    ],
)
@pytest.mark.parametrize(
    "own",
    [
        '<meta charset="windows-1252">',
        "<META CHARSET=Windows-1252/>",
        "<meta http-equiv='Content-Type' content='text/html; Charset = windows-1252'>",
        "<meta content=\"text/html;charset='windows-1252'\" http-equiv=content-type>",
        "<meta/charset = windows-1252 charset=koi8-r>",
    ],
)
def test_a_page_names_its_encoding_in_a_meta_element_alone(before, own, tmp_path):
    page = f"<html><head>{before}{own}</head><body><p>Un café très près du port, où l’on boit du thé</body></html>"
    assert page_of(HEAD.format("").encode(), page.encode("windows-1252"), tmp_path) == page


@pytest.mark.parametrize(
    "own",
    [f"<noscript>{META}</noscript>", "<?xml version='1.0' encoding='koi8-r'?><p>", f"<template>{META}</template>",
     "<script>" + "x" * 9000 + f"</script>{META}", "<!-- x --><?php ?></ br>" + META],
)  # fmt: skip
def test_places_that_do_name_an_encoding(own, tmp_path):
    page = own + "<p>Быстрая коричневая лиса"
    assert page_of(HEAD.format("").encode(), page.encode("koi8-r"), tmp_path) == page


def test_stray_bytes_are_replaced_and_binary_data_is_refused(tmp_path):
    http = HEAD.format("").encode()
    assert page_of(http, b"<meta charset=utf-8>" + b"word " * 999 + b"\xff", tmp_path).endswith("word \ufffd")
    assert page_of(http, b"<p>a\0b</p>", tmp_path) == "<p>ab</p>"  # as HTML's tokenizer does
    assert page_of(http, b"<p>" + bytes(range(9)) * 99, tmp_path) == {"binary data (NUL characters)": 1}
    assert page_of(http, "<p>wide</p>".encode("utf-16-be"), tmp_path) == "<p>wide</p>"


def test_what_is_not_wanted_is_dropped_with_its_reason(tmp_path):
    def http(status=200, mime="text/html"):
        return f"HTTP/1.1 {status} X\r\nContent-Type: {mime}\r\n\r\n".encode()

    records = [
        record(1, http=http(404)),
        record(2, http=http(mime="image/png")),
        record(3, http=http(mime="image/png"), extra="WARC-Identified-Payload-Type: text/html\r\n"),
        record(4, http=http(mime="application/xhtml+xml; charset=utf-8")),
        record(5, b"  \n"),
        record(6, http=b"HTTP/1.1 200 OK\r\n\r\n"),
        record(7, kind="revisit"),
        record(8, kind="metadata"),
        record(9, kind="resource"),
        record(10, http=b"not HTTP\r\n\r\n"),
    ]
    documents, account, _ = read(tmp_path, b"".join(records), "a.warc")
    assert numbers(documents) == [3, 4, 6, 9] and account["in"] == 9
    assert {json.loads(d["metadata"])["content_type"] for d in documents} == {"text/html"}
    assert account["dropped"] == {
        "HTTP status 404": 1,
        "a content type that is not wanted": 1,
        "empty": 1,
        "a record that refers to an earlier one": 1,
        "no HTTP status": 1,
    }
    assert numbers(read(tmp_path, b"".join(records), "a.warc", statuses=None, content_types=["image/png"])[0]) == [2]
    assert numbers(read(tmp_path, b"".join(records), "a.warc", records=["resource"])[0]) == [9]


def test_absurd_dates_and_addresses_are_empty_and_an_id_names_one_document(tmp_path):
    records = [
        record(1),
        record(2, date="0000-99-99T00:00:00Z"),
        record(3, date="99999-01-01T00:00:00Z"),
        record(1),
        record(5, url="https://a.org/\x1b[2J/5"),
        record(6, date=""),
    ]
    documents, account, places = read(tmp_path, b"".join(records), "a.warc")
    assert [d["text"] for d in documents] == [PAGE.format(n) for n in (1, 2, 3, 5, 6)]
    assert [d["date"][:4] for d in documents] == ["2024", "", "", "2024", ""] and documents[3]["url"] == ""
    assert account["quarantined"] == {"a 'WARC-Record-ID' that stood before": 1}
    assert account["warnings"] == {
        "a date that cannot be read": 2,
        "the field 'url' is no single line of at most 8,000 characters": 1,
    }
    assert "\x1b" not in json.dumps(places) + json.dumps(account)


def test_digests(tmp_path):
    http = HEAD.format("").encode()
    block = http + PAGE.format(1).encode()
    sha1 = base64.b32encode(hashlib.sha1(block).digest()).decode()
    good = [
        record(1, http=http, extra=f"WARC-Block-Digest: sha1:{sha1}\r\n"),
        record(1, http=http, extra=f"WARC-Block-Digest: sha256:{hashlib.sha256(block).hexdigest()}\r\n"),
        record(1, http=http),
    ]
    bad = record(1, http=http, extra=f"WARC-Block-Digest: sha1:{'A' * 32}\r\n")
    for data in good:
        assert len(read(tmp_path, data, "a.warc", verify_digests=True)[0]) == 1
    assert len(read(tmp_path, bad, "a.warc")[0]) == 1
    assert read(tmp_path, bad, "a.warc", verify_digests=True)[1]["quarantined"] == {
        "bytes that do not have the digest they state": 1
    }


# ---- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_member_costs_itself_alone(suffix, tmp_path):
    members = [PACK[suffix](record(i, PAGE.format(i).encode() + bytes(range(256)).hex().encode())) for i in range(12)]
    members[2] = members[2][:40] + bytes(b ^ 255 for b in members[2][40:60]) + members[2][60:]
    members[5] = members[5][: len(members[5]) // 2]  # cut in the middle, the next follows at once
    members[8] = b"garbage that was never compressed"
    if suffix == ".gz":
        members[10] = members[10][:-8] + b"\0\0\0\0" + members[10][-4:]  # wrong checksum
    documents, account, places = read(tmp_path, b"".join(members), f"a.warc{suffix}")
    lost = {2, 5, 8, 10} if suffix == ".gz" else {2, 5, 8}
    assert numbers(documents) == [i for i in range(12) if i not in lost]
    assert account["quarantined"] == {f"damaged {suffix} data": len(lost)}
    starts = [0, *itertools.accumulate(map(len, members))]
    assert [int(p["place"].split(":")[0].removeprefix("byte ")) for p in places] == [starts[i] for i in sorted(lost)]
    for d in documents:
        assert d["start"] in starts and d["stop"] in starts


@pytest.mark.parametrize("suffix", PACK)
def test_a_truncated_file_gives_all_before(suffix, tmp_path):
    members = [PACK[suffix](record(i)) for i in range(6)]
    data = b"".join(members)[: -len(members[-1]) // 2]
    documents, account, _ = read(tmp_path, data, f"a.warc{suffix}")
    assert numbers(documents) == [0, 1, 2, 3, 4]
    assert account["quarantined"] == {
        "compressed data is cut short" if suffix else "a WARC record that is cut short": 1
    }


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_costs_itself_alone(suffix, tmp_path):
    bomb = PACK[suffix](record(1, b"\0" * 60_000_000))
    data = PACK[suffix](record(0)) + bomb + PACK[suffix](record(2))
    documents, account, _ = read(tmp_path, data, f"a.warc{suffix}")
    assert numbers(documents) == [0, 2]
    # zstandard packs this beyond the ratio within its first block; the length alone refuses it too
    assert sum(account["quarantined"].values()) in (1, 2) and account["in"] == 2 + sum(account["quarantined"].values())
    assert any("inflates to more than 200 times" in reason for reason in account["quarantined"])
    _, account, _ = read(tmp_path, data, f"a.warc{suffix}", max_ratio=1e6)
    assert account["quarantined"] == {"longer than max_document_bytes (10,000,000)": 1} and account["in"] == 3
    _, account, _ = read(tmp_path, data, f"a.warc{suffix}", max_ratio=1e6, max_inflated_bytes=1_000_000)
    assert "inflates to more than 1,000,000 bytes" in account["quarantined"]


def lying(length, lines=b"\r\n", count=5):
    """Records of which number 1 states another length than it has."""
    return [record(i, length=length if i == 1 else None).replace(b"\r\n", lines) for i in range(count)]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("length", [0, 10, 140, 160, 400, 1200, 5000, 10**9, 10**15, "x", "", "9" * 40, -1])
def test_a_false_length_costs_its_record_alone(suffix, length, tmp_path):
    data = b"".join(map(PACK[suffix], lying(length)))
    documents, account, places = read(tmp_path, data, f"a.warc{suffix}")
    assert numbers(documents) == [0, 2, 3, 4] and sum(account["quarantined"].values()) == 1
    (reason,) = account["quarantined"]
    assert reason in (
        "a WARC record with a false Content-Length",
        "a WARC record that is cut short",
        "a WARC record without a Content-Length",
        "longer than max_document_bytes (10,000,000)",
    )
    first = places[0]["place"]
    assert first == f"byte {len(PACK[suffix](lying(length)[0]))}"


@pytest.mark.parametrize("length", [10, 400, 5000])
def test_a_false_length_among_records_that_were_compressed_together(length, tmp_path):
    documents, account, _ = read(tmp_path, gzip.compress(b"".join(lying(length))))
    assert numbers(documents) == [0, 2, 3, 4] and sum(account["quarantined"].values()) == 1


def test_a_false_length_beyond_the_limit_in_a_large_file(tmp_path):
    whole = [record(i, b"y" * 200_000) for i in range(8)]
    whole[2] = record(2, b"y" * 200_000, length=1_200_000)  # beyond what is held, and into the last but one
    documents, account, _ = read(tmp_path, b"".join(whole), "a.warc", max_document_bytes=300_000)
    assert numbers(documents) == [0, 1, 3, 4, 5, 6, 7]
    assert account["quarantined"] == {"a WARC record with a false Content-Length": 1}


def test_a_header_that_does_not_end(tmp_path):
    documents, account, _ = read(tmp_path, b"WARC/1.0\r\n" + b"x" * 100_000 + b"\r\n" + record(1), "a.warc")
    assert numbers(documents) == [1] and account["quarantined"] == {"a WARC header that does not end": 1}


def test_what_stands_between_records_may_be_missing(tmp_path):
    bare = [record(i)[:-4] for i in range(3)]
    for between in (b"", b"\n", b"\r\n" * 400):
        documents, account, _ = read(tmp_path, between.join(bare), "a.warc")
        assert numbers(documents) == [0, 1, 2] and not account["quarantined"], between


def test_a_dictionary_for_all_records(tmp_path):
    held = zstandard.train_dictionary(4000, [record(i) for i in range(300)])
    pack = zstandard.ZstdCompressor(dict_data=held).compress
    frames_ = [pack(record(i)) for i in range(4)]
    for raw in (held.as_bytes(), zstandard.compress(held.as_bytes())):
        head = b"\x5d\x2a\x4d\x18" + len(raw).to_bytes(4, "little") + raw
        documents, account, _ = read(tmp_path, head + b"".join(frames_), "a.warc.zst")
        assert numbers(documents) == [0, 1, 2, 3] and not account["quarantined"]
        assert documents[0]["start"] == len(head) and json.loads(documents[0]["metadata"]).get("inflated") is None
        damaged = frames_[0] + frames_[1][:-9] + b"\0" * 9 + frames_[2] + frames_[3]
        documents, account, _ = read(tmp_path, head + damaged, "a.warc.zst")
        assert numbers(documents) == [0, 2, 3] and account["quarantined"] == {"damaged .zst data": 1}
    documents, account, _ = read(tmp_path, b"".join(frames_), "a.warc.zst")
    assert set(account["quarantined"]) == {"zstd data packed with a dictionary that the file does not hold"}


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
@pytest.mark.parametrize("suffix", PACK)
def test_the_bytes_say_how_an_archive_is_compressed(name, suffix, tmp_path):
    documents, account, _ = read(tmp_path, b"".join(PACK[suffix](record(i)) for i in range(3)), name)
    assert numbers(documents) == [0, 1, 2] and not account["quarantined"]


def test_a_record_beyond_the_limit_is_not_held(tmp_path):
    records = [record(0), record(1, b"y" * 3_000_000), record(2)]
    for name, data in [("a.warc", b"".join(records)), ("a.warc.gz", b"".join(map(gzip.compress, records)))]:
        documents, account, _ = read(tmp_path, data, name, max_document_bytes=100_000)
        assert numbers(documents) == [0, 2]
        assert account["quarantined"] == {"longer than max_document_bytes (100,000)": 1}


def test_a_record_inside_a_page_is_part_of_the_page(tmp_path):
    forged = record(9)
    data = b"".join(gzip.compress(r) for r in (record(1, b"<pre>\n" + forged + b"</pre>"), record(2)))
    documents, _, _ = read(tmp_path, data)
    assert numbers(documents) == [1, 2] and "WARC-Type" in documents[0]["text"]


def test_the_first_fault_can_stop_the_run(tmp_path):
    with pytest.raises(DataError, match="cut short"):
        read(tmp_path, gzip.compress(record(1))[:-30], on_error="raise")


@given(
    count=st.integers(1, 6),
    cuts=st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from([b"", b"\0", b"\xff\x00", b"WARC/1.0\r\n"])), max_size=4
    ),
    suffix=st.sampled_from(list(PACK)),
)
def test_whatever_happens_to_the_bytes_it_ends_and_untouched_records_remain(count, cuts, suffix):
    members = [PACK[suffix](record(i)) for i in range(count)]
    ends = [0, *itertools.accumulate(map(len, members))]
    data = b"".join(members)
    touched = set()
    out = bytearray(data)
    for at, new in cuts:
        at %= len(data)
        touched.add(next(i for i in range(count) if ends[i] <= at < ends[i + 1]))
        out[at : at + len(new)] = new
        if not new:
            out[at] ^= 0x55
        touched |= {i for i in range(count) if ends[i] < at + len(new) and ends[i + 1] > at}
    out = out[: len(data)]
    got = []
    try:
        got = list(frames(io.BytesIO(bytes(out)), suffix, LIMITS))
    except Unreadable:
        pytest.fail("a whole file was given up")
    urls = [f.header.get("warc-target-uri") for f in got if isinstance(f, Frame)]
    if suffix:  # each member stands by itself
        assert {f"https://a.org/{i}" for i in range(count)} - set(urls) <= {f"https://a.org/{i}" for i in touched}
    assert len(got) <= 3 * count + 4 and all(isinstance(f, (Fault, Frame)) for f in got)
