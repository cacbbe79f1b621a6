"""Text or tokens in MDS shards, as Mosaic's streaming library stores data sets: one sample is one document.

A folder holds `index.json` and shards, plain or compressed with zstd or gzip. Columns that hold pickles or pictures
are left alone. Of texts, a damaged sample is quarantined with its number, a damaged shard as a whole. Tokens
(`tokens_field`) are trained on as they are; damage is refused, as nobody would miss a sample of a fixed length.

Fails when: the shards are packed by other compressions (brotli, snappy).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data.document import Document, SourceLedger, batches, document_id
from tilth.data.read import fields
from tilth.data.read.reading import Unreadable
from tilth.data.tokens import mds, mds_tokens
from tilth.data.tokens.elsewhere import Piece, TokenSource

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "MDS shards",
    "paper": "https://docs.mosaicml.com/projects/streaming/en/stable/preparing_datasets/dataset_format.html",
    "claim": "Every text of a data set of MDS shards becomes a document; damaged samples cost themselves alone.",
    "check": "Shards written by the format's own description, and by mosaicml-streaming, read back (test_mds.py).",
}


class Config(TokenSource):
    """Which data set, and which of its columns."""

    path: Located = Field(min_length=1)
    """A folder that holds index.json."""
    text_field: str = "text"
    """Column that holds the text."""
    tokens_field: str | None = None
    """Column that holds token ids, which then take the text's place: `tokens` in LLM Foundry's data sets."""
    tokens_dtype: Literal["int64", "int32", "uint32", "uint16"] = "int64"
    """Integers of a column of bare bytes (LLM Foundry's older data: int64); arrays say theirs themselves."""
    id_field: str | None = None
    """Column that names a document; null: ids are hashes of place and text."""
    metadata_fields: list[str] = []
    """More columns to keep as the document's metadata."""
    max_document_bytes: int = Field(10_000_000, gt=0)
    """A longer document is quarantined."""

    def fingerprint(self) -> str:
        """Names, sizes and times of the shards. Raises DataError if there is no index."""
        folder, found = self._find()
        stats = [(name, *self._stamp(shard.path)) for name, shard in found.items()]
        return content_hash([str(folder), stats])

    def num_records(self) -> int:
        """Samples, as the index says."""
        return sum(shard.num_samples for shard in self._find()[1].values())

    def shards(self) -> list[str]:
        """One per shard of the index."""
        return list(self._find()[1])

    @property
    def holds_tokens(self) -> bool:
        """Whether a column of tokens is named."""
        return self.tokens_field is not None

    def pieces(self, source: str, shard: str | None = None) -> Iterator[Piece]:
        """Samples of tokens in the order of the index."""
        folder, found = self._find()
        wanted = [s for name, s in found.items() if shard in (None, name)]
        return mds_tokens.pieces(folder, wanted, str(self.tokens_field), self.tokens_dtype, f"{source}:")

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents in the order of the index."""
        if self.holds_tokens:
            return self.texts(ledger, shard)
        return batches(self._documents(ledger, shard))

    def _find(self) -> tuple[Path, dict[str, mds.Shard]]:
        folder = Path(self.path).expanduser()
        found = mds.shards(folder)
        named = {shard.path.relative_to(folder).as_posix(): shard for shard in found}
        if not found or len(named) < len(found):
            what = "names a shard twice" if found else "names no shards"
            raise DataError(f"the index {what}.", where=str(folder / mds.INDEX))
        return folder, named

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        try:
            of = path.stat()
        except OSError:
            return -1, -1
        return of.st_size, of.st_mtime_ns

    def _documents(self, ledger: SourceLedger, wanted: str | None) -> Iterator[Document]:
        folder, found = self._find()
        ledger = ledger.within(folder)
        if wanted is not None and wanted not in found:
            raise DataError("there is no such shard now.", where=f"{folder}: {wanted}")
        columns = [f for f in dict.fromkeys((self.text_field, self.id_field, *self.metadata_fields)) if f]
        ids: set[str] = set()
        for name, shard in found.items() if wanted is None else [(wanted, found[wanted])]:
            try:
                for number, sample in enumerate(mds.samples(shard, columns)):
                    try:
                        if not isinstance(sample, mds.Sample):
                            raise sample[1]
                        warned: list[str] = []
                        document = self._document(ledger.source, name, number, sample, ids, warned.append)
                        if not document.text.strip():
                            ledger.skip(name, "empty")
                            continue
                        for reason in warned:
                            ledger.warn(name, f"sample {number}", reason)
                        yield document
                    except Unreadable as err:
                        place = ", ".join(filter(None, (f"sample {number}", err.place)))
                        ledger.quarantine(name, place, err.reason)
            except Unreadable as err:
                ledger.quarantine(name, err.place, err.reason)

    def _document(
        self, source: str, name: str, number: int, sample: mds.Sample, ids: set[str], warn: fields.Warn
    ) -> Document:
        row = sample.columns
        for value in row.values():
            if isinstance(value, fields.Unusable):
                warn(value.reason)
        text = fields.check_text(row, self.text_field)
        if len(text.encode()) > self.max_document_bytes:
            raise Unreadable(f"longer than max_document_bytes ({self.max_document_bytes:,})")
        identity = fields.identity(row, self.id_field, source, ids, warn) or document_id(source, name, text, number)
        metadata = fields.metadata_json({"sample": number} | {f: _plain(row[f]) for f in self.metadata_fields}, warn)
        return Document(identity, text, source, name, metadata, start=sample.start, stop=sample.stop)


def _plain(value: object) -> object:
    """A column's value as JSON has it; bytes as hex digits."""
    return value.hex() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value
