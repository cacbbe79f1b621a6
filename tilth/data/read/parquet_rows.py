"""Rows of Parquet files: texts of any string or binary type within bounds, side values one by one if they must be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .compression import File
from .fields import Unusable
from .reading import Limits, Unreadable


class Row(NamedTuple):
    """One row, or why its text is unusable."""

    content: dict[str, Any] | Unreadable
    warnings: list[str]
    """Reasons of its values that are `Unusable`."""


def rows(path: File, text_field: str, fields: list[str], limits: Limits, groups: range | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, or of some of its row groups: `text_field` and `fields`. Raises Unreadable for a file
    that is unusable. Texts stay dictionary-coded until each is known to be small enough."""
    try:
        with _open(path) as file:
            _check(file, path, [text_field, *fields], limits)
        with _open(path, read_dictionary=[text_field]) as file:
            inflated = 0
            wanted = list(groups) if groups is not None else None
            for batch in file.iter_batches(batch_size=256, row_groups=wanted, columns=[text_field, *fields]):
                others, warnings = _others(batch, fields)
                texts = _coded(batch.column(text_field))
                sizes = pc.take(pc.binary_length(texts.dictionary), texts.indices).to_pylist()
                for text, size, other, warned in zip(texts, sizes, others, warnings, strict=True):
                    inflated += size or 0
                    limits.check(inflated, path.stat().st_size)
                    if size is not None and size > limits.document_bytes:
                        yield Row(Unreadable(limits.too_long), warned)
                        continue
                    try:
                        value = text.as_py()
                        value = value.decode() if isinstance(value, bytes) else value
                        yield Row({text_field: value, **other}, warned)
                    except UnicodeDecodeError as err:
                        yield Row(Unreadable("not UTF-8", f"byte {err.start}"), warned)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        raise Unreadable("not readable as Parquet", str(err)[:200]) from None


def _coded(texts: Any) -> Any:
    """A column of texts, dictionary-coded."""
    if isinstance(texts, pa.ExtensionArray):
        texts = texts.storage
    if pa.types.is_dictionary(texts.type):
        return texts
    if _is_view(texts.type):
        texts = texts.cast(pa.large_binary())
    return texts.dictionary_encode()


def _is_view(kind: pa.DataType) -> bool:
    return pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def _others(batch: pa.RecordBatch, fields: list[str]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The side values of each row, and the reasons of those that Python or UTF-8 cannot hold."""
    warnings: list[list[str]] = [[] for _ in range(batch.num_rows)]
    columns = {}
    for name in fields:
        column = batch.column(name)
        try:
            columns[name] = column.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException):
            columns[name] = [_value(scalar, warned) for scalar, warned in zip(column, warnings, strict=True)]
    return [{name: columns[name][i] for name in fields} for i in range(batch.num_rows)], warnings


def _value(scalar: Any, warnings: list[str]) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except (ValueError, OverflowError, pa.ArrowException):
        reason = "a value beyond the range of its kind"
    warnings.append(reason)
    return Unusable(reason)


def _open(path: File, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(path.open("rb"), **options)


def stored_groups(path: File) -> list[int]:
    """Stored bytes of each row group; none of a file that cannot be read."""
    try:
        with _open(path) as file:
            meta = file.metadata
    except (pa.ArrowException, OSError):
        return []
    groups = map(meta.row_group, range(meta.num_row_groups))
    return [sum(g.column(i).total_compressed_size for i in range(g.num_columns)) for g in groups]


def rows_before(path: File, group: int) -> int:
    """Rows of the row groups before one."""
    with _open(path) as file:
        meta = file.metadata
    return sum(meta.row_group(i).num_rows for i in range(group))


def _check(file: pq.ParquetFile, path: File, wanted: list[str], limits: Limits) -> None:
    have = file.schema_arrow
    for name in wanted:
        if have.get_field_index(name) < 0:
            many = have.names.count(name)
            what = f"{many} columns are called '{name}'" if many else f"no column '{name}'"
            raise Unreadable(what, "columns: " + ", ".join(map(str, have.names))[:200])
    kind = have.field(wanted[0]).type
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not (any(test(kind) for test in texts) or _is_view(kind) or pa.types.is_fixed_size_binary(kind)):
        raise Unreadable(f"the column '{wanted[0]}' is not text", f"it is {kind}")
    stated = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    limits.check(stated, path.stat().st_size)
