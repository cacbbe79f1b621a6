"""Text that became tokens: documents, tokenizer and token shards of a recipe, each cached by what goes into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilth.core.hashing import content_hash
from tilth.core.opening import Opens
from tilth.core.recipe import Recipe
from tilth.core.rundir import sweep
from tilth.core.technique import dump

from .corpus import Documents, documents_key
from .corpus import prepare as prepare_documents
from .harvesting import harvested
from .tokens import ready
from .tokens.elsewhere import brought
from .tokens.store import TokenStore, write_stores
from .tokens.tokenizer import Tokenizer


@dataclass
class Prepared:
    """Text that became tokens."""

    documents: Documents
    tokenizer: Tokenizer
    stores: dict[str, dict[str, TokenStore]]

    def fingerprint(self, recipe: Recipe) -> str:
        """Content of what `recipe` trains on. Tokens that were there already are cut in their own way."""
        made = [self.documents.key, self.tokenizer.fingerprint]
        if recipe.data.run is not None or brought(recipe.data.sources):
            made += [splits["train"].fingerprint for splits in self.stores.values()]
        return content_hash(made)


def prepare(recipe: Recipe, cache: Path, say: Callable[[str], None], opens: Opens | None = None) -> Prepared:
    """Documents, tokenizer and token shards of a recipe, each from the cache where its inputs have not changed.

    opens   what opens models for signals that read one
    """
    cache.mkdir(parents=True, exist_ok=True)
    sweep(cache.parent)
    if recipe.data.run is not None:
        there = ready.tokens(recipe.data.run)
        tokenizer = ready.tokenizer(there, recipe.tokenizer)
        documents = prepare_documents(recipe.data, cache, say)
        return Prepared(documents, tokenizer, ready.stores(there, documents, say))
    documents = prepare_documents(harvested(recipe.data, cache, say, opens), cache, say)
    tokenizer = Tokenizer.load(recipe.tokenizer.prepare(documents, cache, say))
    made = write_stores(documents, tokenizer, cache, say, brought=brought(recipe.data.sources))
    prepared = Prepared(documents, tokenizer, made)
    if not (mark := mark_of(recipe, cache)).exists():
        mark.touch()
    return prepared


def mark_of(recipe: Recipe, cache: Path) -> Path:
    """Lies in the cache once a recipe's data are prepared."""
    return cache / f"prepared-{content_hash([documents_key(recipe.data), dump(recipe.tokenizer)])}"
