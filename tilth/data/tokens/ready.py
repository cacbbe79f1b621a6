"""Tokens that a data run made, opened to train on as they are: `data: DIRECTORY` in a recipe.

The store, stream or packed, is read where it lies; no text is tokenised. Its documents are those of the tier it was
made of, in their order, so a training step is traced through it to the bytes that were read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tilth.core.errors import DataError
from tilth.core.kinds import kind_of
from tilth.core.manifest import Manifest
from tilth.core.protocols import TokenizerSpec
from tilth.core.recipe import DATA_RUN
from tilth.core.tokens import made
from tilth.data.engine.directory import result

from .elsewhere import format_of
from .store import Documents, TokenStore
from .tokenizer import Tokenizer
from .writing import STORE, TOKENIZER

_AGAIN = "`tilth data run` with the data run's recipe makes again what is damaged."


def tokens(run: str | Path) -> Path:
    """The directory of a data run's tokens. Raises DataError if it is no finished data run, has none, or a file of them
    is not as it was written."""
    if kind_of(run) is None and (found := format_of(Path(run))):
        more = ", tokens_field: tokens" if found == "mds" else ""
        raise DataError(
            "this is no data run; there are tokens here, which are a source.",
            where=str(run),
            fix=f"In place of `data`: data: {{sources: {{web: {{use: {found}, path: {run}{more}}}}}}}, and the "
            "tokenizer that made them.",
        )
    folder = result(run) / "tokens"
    if not folder.is_dir():
        raise DataError(
            "this data run made no tokens.",
            where=str(run),
            fix="Give its recipe `tokens: {tokenizer: …}` and run it again.",
        )
    Manifest(folder).check(fix=_AGAIN)
    return folder


def tokenizer(folder: Path, asked: TokenizerSpec) -> Tokenizer:
    """The tokenizer of the tokens in `folder`, which must be the one that the recipe asks for."""
    own, other = Tokenizer.load(folder / TOKENIZER), made(asked).load()
    if own.fingerprint != other.fingerprint:
        raise DataError(
            f"the data run's tokens were made by another tokenizer ({own.vocab_size:,} tokens) than the recipe names "
            f"({other.vocab_size:,}).",
            where="tokenizer",
            fix="Leave `tokenizer` out: the data run's own is taken.",
        )
    return own


def stores(folder: Path, documents: Documents, say: Callable[[str], None]) -> dict[str, dict[str, TokenStore]]:
    """Source -> split -> store. Raises DataError if held-out text of one's own is among what was tokenised."""
    store = TokenStore.open(folder / STORE, verify=True)
    kept = sum(batch.num_rows for batch in documents.read(DATA_RUN, "train"))
    there = len({store.document_id(i) for i in range(store.num_documents)} - {""})
    if kept != there:
        raise DataError(
            f"the tokens are of {there:,} documents, and {kept:,} of them may be trained on: the others are copies of "
            "held-out text.",
            where="data.held_out",
            fix="Leave these out in the data run (the step `decontaminate`), or hold other text out.",
        )
    cut = "one stream" if store.packed is None else f"packed for sequences of {store.packed.sequence:,}"
    say(f"{DATA_RUN}: {store.num_tokens:,} tokens of {there:,} documents as they are, {cut}")
    return {DATA_RUN: {"train": store}}
