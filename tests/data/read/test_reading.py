"""Readers against plain references (bytes.split, json, gzip) and against files made to hurt."""

import bz2
import datetime
import decimal
import gzip
import itertools
import json
import lzma
import math
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tilth.data.read import json_rows, parquet_rows
from tilth.data.read.compression import chunks
from tilth.data.read.fields import Unusable, check_id, check_text, date, metadata_json, side
from tilth.data.read.json_rows import form, parse_object
from tilth.data.read.pieces import can_cut, piece
from tilth.data.read.reading import GRACE_BYTES, HEAD_BYTES, Limits, Unreadable, UnreadableFile, decode, records

LIMITS = Limits(document_bytes=1000, ratio=200.0, inflated_bytes=1 << 30)


# ---- records -----------------------------------------------------------------------------------------------------


@given(
    data=st.lists(st.sampled_from([b"a", b"\n", b"ab", b"b" * 9, b"\r\n"])).map(b"".join),
    cuts=st.lists(st.integers(1, 7), min_size=1),
    separator=st.sampled_from([b"\n", b"ab", b"aba"]),
    limit=st.integers(1, 12),
)
def test_records_are_those_of_split_however_the_stream_is_cut(data, cuts, separator, limit):
    stream, at = [], 0
    while at < len(data):
        stream.append(data[at : at + cuts[len(stream) % len(cuts)]])
        at += len(stream[-1])
    want = data.split(separator)
    if not want[-1]:
        want.pop()  # nothing after the last separator
    got = list(records(iter(stream), separator, limit))
    assert [r.number for r in got] == list(range(1, len(want) + 1))
    for r, w in zip(got, want, strict=True):
        assert r.too_long == (len(w) > limit)
        assert r.data == w if not r.too_long else w.startswith(r.data) and r.data
        assert data[r.start : r.stop] == w


@given(
    data=st.lists(st.sampled_from([b"a", b"\n", b"ab", b"b" * 9, b"\r\n"])).map(b"".join),
    cuts=st.lists(st.integers(1, 60), max_size=4),
    separator=st.sampled_from([b"\n", b"ab", b"abb"]),
    limit=st.integers(1, 12),
)
def test_pieces_of_a_file_give_each_record_once(data, cuts, separator, limit, tmp_path_factory):
    path = tmp_path_factory.mktemp("p") / "a.txt"
    path.write_bytes(data)
    limits = Limits(limit, 200.0, 1 << 30)
    ends = sorted({0, *(c for c in cuts if c < len(data)), max(len(data), 1)})
    assert can_cut(path, separator) is not None
    got = [r for a, b in itertools.pairwise(ends) for r in piece(path, separator, limits, a, b)]
    assert [r[1:] for r in got] == [r[1:] for r in records(iter([data]), separator, limit)]


@pytest.mark.parametrize(
    "value, want",
    [
        ("2024-02-29", "2024-02-29"),
        ("1851", "1851"),
        ("2019-05", "2019-05"),
        ("20191120", "2019-11-20"),
        ("20191120101112", "2019-11-20T10:11:12Z"),
        ("2019-11-20T10:11:12Z", "2019-11-20T10:11:12Z"),
        ("2019-11-20T23:30:00-02:00", "2019-11-21T01:30:00Z"),
        ("2019-11-20 10:11:12", "2019-11-20T10:11:12"),
        ("Wed, 20 Nov 2019 10:11:12 +0100", "2019-11-20T09:11:12Z"),
        (1574244672, "2019-11-20T10:11:12Z"),
        (1574244672000, "2019-11-20T10:11:12Z"),
        (datetime.date(1999, 12, 31), "1999-12-31"),
        (datetime.datetime(1999, 12, 31, 1), "1999-12-31T01:00:00"),
    ],
)
def test_dates(value, want):
    assert date(value) == want


@pytest.mark.parametrize(
    "value", ["0000-00-00", "2023-02-29", "2019-13", "99999999", "9999-12-31", "0001-01-01", "tomorrow", "1" * 99,
              "١٩٩٩", True, 1e300, float("nan"), -1e15, [2019], "2019-11-20\0", "Wed, 20 Nov 19999 10:11:12 +0100"],
)  # fmt: skip
def test_absurd_dates(value):
    with pytest.raises(Unreadable, match=r"a date (that cannot be read|beyond all reason)"):
        date(value)


def test_a_long_record_is_skipped_without_being_held():
    def stream():
        yield b"one\n"
        for _ in range(400):
            yield b"x" * (1 << 18)  # 100 MB in one line
        yield b"\ntwo"

    got = list(records(stream(), b"\n", 1000))
    assert [(r.number, r.too_long) for r in got] == [(1, False), (2, True), (3, False)]
    assert len(got[1].data) <= HEAD_BYTES and got[2].data == b"two"


def test_a_whole_file_beyond_the_limit_is_left_at_once():
    taken = []

    def stream():
        for i in range(1000):
            taken.append(i)
            yield b"y" * 100

    assert [r.too_long for r in records(stream(), None, 250)] == [True]
    assert len(taken) == 3


# ---- compression -------------------------------------------------------------------------------------------------


def _write(path, data, level=3):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else zstandard.compress(data, level))
    return path


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_several_members_are_one_stream(suffix, tmp_path):
    parts = [_write(tmp_path / f"{i}{suffix}", b"part %d\n" % i * 5000).read_bytes() for i in range(3)]
    both = tmp_path / f"all{suffix}"
    both.write_bytes(b"".join(parts) + (b"\0" * 512 if suffix == ".gz" else b""))
    assert b"".join(chunks(both, LIMITS)) == b"".join(b"part %d\n" % i * 5000 for i in range(3))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_all_before_a_truncation_is_delivered(suffix, tmp_path):
    import random

    data = random.Random(0).randbytes(600_000).hex().encode()
    path = _write(tmp_path / f"a{suffix}", data)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    got = b""
    with pytest.raises(Unreadable, match="cut short"):
        for piece in chunks(path, LIMITS):
            got += piece
    assert data.startswith(got) and len(got) > len(data) // 3


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_is_a_reason_not_a_crash(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\0" + _write(path, b"text" * 999).read_bytes()[1:])
    with pytest.raises(Unreadable, match=f"damaged {suffix}"):
        list(chunks(path, LIMITS))
    path.write_bytes(b"this was never compressed")
    assert b"".join(chunks(path, LIMITS)) == b"this was never compressed"  # the bytes decide, not the name


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt.gz", "a.zst", "a.xz"])
def test_the_bytes_say_how_a_file_is_compressed(pack, name, tmp_path):
    data = b"line\n" * 9999
    (tmp_path / name).write_bytes(pack(data[:5]) + pack(data[5:]))
    assert b"".join(chunks(tmp_path / name, LIMITS)) == data
    (tmp_path / name).write_bytes(pack(data)[:-5])
    with pytest.raises(Unreadable, match="cut short"):
        list(chunks(tmp_path / name, LIMITS))


@pytest.mark.parametrize(
    "data, what",
    [
        (b"PK\x03\x04" + b"\0" * 40, "a ZIP archive"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"PAR1" + b"\0" * 40, "a Parquet file under another name"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300, "a tar archive"),
        (gzip.compress(b"a.txt".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300), "a tar archive"),
    ],
    ids=["zip", "pdf", "parquet", "tar", "tar.gz"],
)
def test_other_formats_are_named(data, what, tmp_path):
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(zstandard.compress(b"x")))
    with pytest.raises(UnreadableFile, match="compressed twice"):
        list(chunks(tmp_path / "b.jsonl", LIMITS))
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UnreadableFile, match=f"{what}, which is not read here"):
        list(chunks(tmp_path / "a.jsonl", LIMITS))


SKIPPABLE = b"\x53\x2a\x4d\x18" + struct.pack("<I", 3000) + b"x" * 3000


@pytest.mark.parametrize("log", [10, 27, 28, 31])
def test_long_windows_and_skippable_frames(log, tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=min(log, 30), write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = bytearray(frame.compress(b"line\n" * 999) + frame.flush())
    packed[5] = (log - 10) << 3  # the window that the header asks for
    (tmp_path / "a.zst").write_bytes(SKIPPABLE + bytes(packed) + SKIPPABLE * 2 + bytes(packed))
    assert b"".join(chunks(tmp_path / "a.zst", LIMITS)) == b"line\n" * 1998
    packed[5] = (32 - 10) << 3
    (tmp_path / "a.zst").write_bytes(bytes(packed))
    with pytest.raises(Unreadable, match=r"a zstd window longer than 2,147,483,648 bytes.*--long=31"):
        list(chunks(tmp_path / "a.zst", LIMITS))


@pytest.mark.parametrize("packed", [False, True])
def test_a_dictionary_in_the_first_frame(packed, tmp_path):
    held = zstandard.train_dictionary(2000, [b'{"text": "number %d of many"}\n' % i * 3 for i in range(500)])
    raw = zstandard.compress(held.as_bytes()) if packed else held.as_bytes()
    lines = [b'{"text": "number %d of many"}\n' % i for i in range(9)]
    frames = b"".join(zstandard.ZstdCompressor(dict_data=held).compress(line) for line in lines)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"\x5d\x2a\x4d\x18" + struct.pack("<I", len(raw)) + raw + frames)
    assert b"".join(chunks(path, LIMITS)) == b"".join(lines)
    path.write_bytes(frames)
    with pytest.raises(Unreadable, match="a dictionary that the file does not hold"):
        list(chunks(path, LIMITS))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_is_given_up_early(suffix, tmp_path):
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=9) as f:
            for _ in range(64):
                f.write(b"\0" * (1 << 20))
    else:  # run-length blocks of 128 KiB: the densest bomb the format allows, 4 GiB in 130 kB
        head = b"\x28\xb5\x2f\xfd" + bytes([0x00, (27 - 10) << 3])
        block = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"x"
        path.write_bytes(head + block * 32_768)
    out = 0
    with pytest.raises(Unreadable, match="more than 200 times"):
        for piece in chunks(path, LIMITS):
            assert len(piece) <= 40 << 20
            out += len(piece)
    assert out <= GRACE_BYTES + (40 << 20)


def test_the_absolute_cap_holds_at_any_ratio(tmp_path):
    path = _write(tmp_path / "a.gz", bytes(range(256)) * 100)
    with pytest.raises(Unreadable, match="more than 5,000 bytes"):
        list(chunks(path, Limits(10, 1e9, 5000)))


def test_little_files_may_inflate_much(tmp_path):
    path = _write(tmp_path / "a.zst", b"\n" * 1_000_000)
    assert path.stat().st_size * 200 < 1_000_000
    assert len(b"".join(chunks(path, LIMITS))) == 1_000_000


# ---- text and JSON -----------------------------------------------------------------------------------------------


def test_decoding():
    assert decode(b"\xef\xbb\xbfa\r\nb\rc", first=True) == "a\nb\nc"
    assert decode(b"\xef\xbb\xbfa") == "\ufeffa"  # only a file begins with a mark
    for data, reason in [(b"a\0b", "NUL"), (b"ok \xff", "not UTF-8"), (b"\xed\xa0\x80", "not UTF-8")]:
        with pytest.raises(Unreadable, match=reason):
            decode(data)
    for bom in ("utf-16-le", "utf-16-be"):
        with pytest.raises(UnreadableFile, match="UTF-16"):
            decode("\ufeffhello".encode(bom), first=True)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
def test_parse_object_agrees_with_json_and_takes_objects_only(value):
    text = json.dumps(value)
    if isinstance(value, dict):
        assert parse_object(text) == json.loads(text)
    else:
        with pytest.raises(Unreadable, match="not a JSON object"):
            parse_object(text)


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"a": ' + "[" * 200_000 + "}", "too deeply"),
        ('{"a": 1} {"b": 2}', "not JSON"),
        ('{"a": "\x01"}', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_is_no_object_is_refused(text, reason):
    with pytest.raises(Unreadable, match=reason):
        parse_object(text)


@pytest.mark.parametrize(
    "value, reason",
    [
        ('1, "a": 1', "twice"),
        ("NaN", "NaN"),
        ("-Infinity", "NaN or infinity"),
        ("1e999", "float range"),
        ("9" * 5000, "too many digits"),
    ],
)
def test_a_value_that_parsers_read_differently_is_unusable_and_counted(value, reason):
    warnings = []
    row = parse_object(f'{{"text": "t", "a": {value}, "b": [{{"a": {value}}}]}}', warnings)
    assert row["text"] == "t" and reason in row["a"].reason and isinstance(row["b"][0]["a"], Unusable)
    assert warnings == [row["a"].reason] * 2
    assert metadata_json(row, warnings.append) == '{"text": "t", "a": null, "b": [{"a": null}]}' and len(warnings) == 2
    with pytest.raises(Unreadable, match=reason):
        check_text(row, "a")  # as the text of a document it is refused


def as_lines(path, data):
    path.write_bytes(data)
    return list(json_rows.rows(path, LIMITS))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_arrays_and_objects_over_several_lines(indent, mark, tmp_path):
    objects = [{"text": f"tëxt {i} }}]", "n": [i, {"x": None}]} for i in range(50)]
    path = tmp_path / "a.json"
    data = mark + json.dumps(objects, indent=indent, ensure_ascii=False).encode() + b"\n"
    rows = as_lines(path, data)
    assert [r.content for r in rows] == objects and [r.number for r in rows] == list(range(1, 51))
    assert all(json.loads(data[r.start : r.stop]) == r.content == json.loads(r.data) for r in rows)
    several = mark + b"\n".join(json.dumps(o, indent=indent).encode() for o in objects)
    assert [r.content for r in as_lines(path, several)] == objects
    assert {r.unit for r in as_lines(path, several)} == {"item" if indent else "line"}


def test_arrays_that_are_damaged(tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / "b.json").write_bytes(b'[{"text": "a"}, {"text": "b"}, {"te')
    got = []
    with pytest.raises(UnreadableFile, match="not JSON"):
        got.extend(r.content for r in json_rows.rows(tmp_path / "b.json", LIMITS))
    rows = as_lines(path, b'[{"text": "\xff"}, 3, {"text": "%s"}, {"text": "c"}]' % (b"x" * 2000))
    assert [getattr(r.content, "reason", r.content) for r in rows] == [
        "not UTF-8", "not a JSON object", "longer than max_document_bytes (1,000)", {"text": "c"}
    ]  # fmt: skip
    for data, reason in [
        (b'[{"a": 1}] x', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b",".join(b"%d" % i for i in range(3000)) + b"]", "holds no objects"),
        (b'{"a": "' + b"x" * 9, "not JSON"),
    ]:
        try:
            rows = as_lines(path, data)
        except UnreadableFile as err:
            assert reason in err.reason
        else:
            assert sum(isinstance(r.content, Unreadable) for r in rows) == 1


@pytest.mark.parametrize(
    "data, first",
    [
        (b"name,age\nAnn,3\n" * 5000, "not JSON"),
        (b"[1]\n[2]\n" * 5000, "not a JSON object"),
        (b"\x00\x01\n" * 5000, "NUL"),
        (b"one\ntwo\n", "not JSON"),
    ],
)
def test_a_file_that_is_no_json_lines_is_one_fault(data, first, tmp_path):
    with pytest.raises(UnreadableFile, match="not JSON lines") as err:
        as_lines(tmp_path / "a.jsonl", data)
    assert first in err.value.place and ("1,000" in err.value.place) == (data.count(b"\n") > 1000)


def test_faults_before_the_first_object_are_counted_one_by_one(tmp_path):
    rows = as_lines(tmp_path / "a.jsonl", b"junk\n" * 500 + b'{"text": "a"}\n' + b"junk\n" * 2000)
    assert len(rows) == 2501 and [r.number for r in rows if not isinstance(r.content, Unreadable)] == [501]


def test_fields():
    assert check_text({"text": "a\r\nb"}, "text") == "a\nb"
    for value, reason in [(None, "no field"), (3, "not text"), ("a\0", "NUL"), ("\ud800", "surrogate")]:
        with pytest.raises(Unreadable, match=reason):
            check_text({"text": value}, "text")
    with pytest.raises(Unreadable, match="no field 'text'") as err:
        check_text({"body": "x", "url": 1}, "text")
    assert err.value.place == "fields: body, url"
    assert check_id({"id": 7}, "id") == "7" and check_id({"id": "é"}, "id") == "é"
    for bad in (True, "", 1.5, [1]):
        with pytest.raises(Unreadable, match="no id"):
            check_id({"id": bad}, "id")


def test_side_values_never_raise():
    warnings = []
    held = {"x": math.nan, "y": [math.inf, {"z": "\ud800"}], "d": datetime.date(2024, 1, 2), "b": b"\xff", "t": b"t"}
    assert json.loads(metadata_json(held, warnings.append)) == {
        "x": None, "y": [None, {"z": None}], "d": "2024-01-02", "b": "ff", "t": "t"
    }  # fmt: skip
    assert len(warnings) == 3
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert len(metadata_json({"deep": deep, "n": 2**70}, warnings.append)) < 600 and warnings[3] == "nested too deeply"
    assert side(check_id, {"id": 1.5}, "id", warnings.append) == "" and warnings[4] == "the field 'id' is no id"
    assert side(check_id, {"id": 7}, "id", warnings.append) == "7" and side(check_id, {}, None, warnings.append) == ""
    assert len(warnings) == 5


# ---- Parquet -----------------------------------------------------------------------------------------------------


def test_parquet_rows_are_those_of_the_table(tmp_path):
    texts = [f"text {i % 7}" * (i % 3 + 1) for i in range(700)]
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
    kinds += [pa.binary(), pa.large_binary(), pa.binary_view()]
    for kind in kinds:
        table = pa.table({"n": range(700), "text": pa.array(texts).cast(kind), "other": texts})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
        rows = list(parquet_rows.rows(tmp_path / "a.parquet", "text", ["n"], LIMITS))
        assert rows == [({"text": t, "n": i}, []) for i, t in enumerate(texts)], kind


def test_side_columns_of_any_type_cost_no_row(tmp_path):
    columns = {
        "text": ["a", "b"],
        "score": [math.nan, 1.5],
        "price": pa.array([decimal.Decimal("1.50"), None]),
        "words": pa.array([["x"], []], pa.list_view(pa.string())),
        "when": pa.array([2**62, 0], pa.timestamp("us")),
        "latin": pa.array([b"\xff", b"ok"]).view(pa.string()),
        "big": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = parquet_rows.rows(tmp_path / "a.parquet", "text", list(columns)[1:], LIMITS)
    assert sorted(first.warnings) == ["a value beyond the range of its kind", "not UTF-8"] and not second.warnings
    warnings = []
    assert json.loads(metadata_json(first.content, warnings.append)) == {
        "text": "a", "score": None, "price": "1.50", "words": ["x"], "when": None, "latin": None, "big": 2**64 - 1
    }  # fmt: skip
    assert warnings == ["NaN or infinity, which JSON does not have"]
    assert second.content["latin"] == "ok" and second.content["price"] is None


def test_parquet_faults_have_a_row_or_concern_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    bad = pa.array([b"fine", b"\xff\xfe", None, b"z" * 2000]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), path)
    rows = [row.content for row in parquet_rows.rows(path, "text", [], LIMITS)]
    assert rows[0] == {"text": "fine"} and rows[2] == {"text": None}
    assert rows[1].reason == "not UTF-8" and "max_document_bytes" in rows[3].reason
    pq.write_table(pa.table({"text": pa.array([b"fine", b"\xff"])}), path)
    rows = [row.content for row in parquet_rows.rows(path, "text", [], LIMITS)]
    assert rows[0] == {"text": "fine"} and rows[1].reason == "not UTF-8"
    with pytest.raises(Unreadable, match="no column 'body'") as err:
        list(parquet_rows.rows(path, "body", [], LIMITS))
    assert err.value.place == "columns: text"
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(Unreadable, match="is not text"):
        list(parquet_rows.rows(path, "text", [], LIMITS))
    for data in (b"PAR1 no", b"", path.read_bytes()[:-20]):
        path.write_bytes(data)
        with pytest.raises(Unreadable, match="not readable as Parquet"):
            list(parquet_rows.rows(path, "text", [], LIMITS))


def test_a_parquet_of_one_text_a_million_times_is_a_bomb(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["x" * 100_000] * 400)}), path, compression="zstd")
    seen = 0
    with pytest.raises(Unreadable, match="more than 200 times"):
        for row in parquet_rows.rows(path, "text", [], Limits(1 << 20, 200.0, 1 << 40)):
            seen += len(row.content["text"])
    assert seen <= GRACE_BYTES + 100_000


def test_a_damaged_first_line_costs_itself_alone():
    good = b'{"text": "b"}\n'
    assert form(b'{}text": "a"}\n' + good) == form(b'{"text": "a"}}\n' + good) == "lines"
    assert form(b'{"text": "a"}{"text": "c"}\n' + good) == "lines"  # read there, see test_sources.py
    assert form(b'{"text":\n"a"}\n' + good) == form(b'{"text": "a"},\n' + good) == "items"
