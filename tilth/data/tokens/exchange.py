"""Tokens brought in from other formats and taken out to them: `tilth data import` and `tilth data export`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

from tilth.core import recipe as recipes
from tilth.core.errors import DataError, RecipeError, nearest
from tilth.core.kinds import kind_of
from tilth.core.located import Located
from tilth.core.manifest import seal
from tilth.core.rundir import read_json, whole_dir
from tilth.data.prepared import prepare
from tilth.data.tokenize.pretrained import Config as Pretrained

from . import megatron, ready
from .elsewhere import Format, format_of
from .mds_tokens import export_mds, import_mds
from .store import TokenStore
from .tokenizer import Tokenizer
from .writing import STORE, TOKENIZER


def known_format(name: str) -> Format:
    """The format of that name. Raises RecipeError with the nearest."""
    known: tuple[Format, ...] = get_args(Format)
    for format in known:
        if format == name:
            return format
    raise RecipeError(f"there is no format '{name}'.", where="--format", fix=nearest(name, known))


def bring_in(
    path: str | Path,
    target: str | Path,
    tokenizer: str | Path,
    format: Format | None = None,
    column: str = "tokens",
    dtype: str = "int64",
) -> dict[str, Any]:
    """Copy tokens into a new directory of `store/` and `tokenizer/`, which the source `store` reads.

    tokenizer  what made the tokens: a tokenizer.json or a directory that holds one
    column, dtype  of MDS shards, see `import_mds`
    Returns what there is, with the beginning of the first document as the tokenizer reads it. Raises DataError, with
    nothing left behind, if the tokens are damaged or the tokenizer lacks one of them.
    """
    path, target = Path(path).expanduser(), Path(target)
    if target.exists():
        raise DataError("there is something here already.", where=str(target), fix="Name a new directory.")
    format = format or format_of(path)
    if format is None:
        raise DataError(
            "there are no tokens here.",
            where=str(path),
            fix="Name a Megatron prefix (without .bin), a folder of MDS shards with index.json, or a token store.",
        )
    loaded = Pretrained(path=Located(tokenizer)).load()
    with whole_dir(target) as aside:
        if format == "megatron":
            megatron.import_megatron(path, aside / STORE, loaded)
        elif format == "mds":
            import_mds(path, aside / STORE, loaded, column, dtype)
        else:
            _copy(store_at(path), loaded, aside / STORE)
        loaded.save(aside / TOKENIZER)
        seal(aside)
    store = TokenStore.open(target / STORE)
    begins = loaded.decode(store.document(0)[:64].tolist()) if store.num_documents else ""
    return {"dir": str(target), "format": format, **_facts(store), "begins": begins}


def take_out(
    path: str | Path,
    target: str | Path,
    format: Format = "megatron",
    max_tokens: int | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Write the tokens of a training run, data run or store for other trainers: Megatron's files under the prefix
    `target`, or a new folder of MDS shards, or a store.

    max_tokens  of a pair of Megatron's files, see `export_megatron`
    source      which of a training run's sources; None: the only one
    Raises DataError if there is something at `target`, or for a packed store, whose documents are in pieces.
    """
    path, target = Path(path).expanduser(), Path(target)
    store = _trained_on(path, source) if kind_of(path) == "training run" else store_at(path)
    if max_tokens is not None and format != "megatron":
        raise RecipeError("only Megatron's files are cut by tokens.", where="--max-tokens", fix="Leave it out.")
    taken = [target] if format != "megatron" else sorted(target.parent.glob(f"{target.name}*.idx"))
    if there := [p for p in taken if p.exists()]:
        raise DataError("there is something here already.", where=str(there[0]), fix="Name another place.")
    if format == "megatron":
        files = [str(p) for p in megatron.export_megatron(store, target, max_tokens)]
    elif format == "mds":
        files = [str(export_mds(store, target))]
    else:
        with whole_dir(target) as aside:
            shutil.copytree(store.path, aside, dirs_exist_ok=True)
        files = [str(target)]
    return {"format": format, "files": files, **_facts(store)}


def store_at(path: Path) -> TokenStore:
    """The store of a data run, of a directory with `store/`, or at the path itself; compared with its checksums."""
    if kind_of(path) == "data run":
        path = ready.tokens(path)
    return TokenStore.open(path / STORE if (path / STORE).is_dir() else path, verify=True)


def _trained_on(run: Path, source: str | None) -> TokenStore:
    """What a training run was trained on, of one of its sources."""
    recipe = recipes.load(run / "recipe.yaml").recipe
    prepared = prepare(recipe, run.parent / ".cache", lambda _: None)
    if prepared.fingerprint(recipe) != read_json(run / "identity.json").get("data"):
        raise DataError("the data this run was trained on has changed since.", where=str(run))
    names = list(prepared.stores)
    if source not in names and (source is not None or len(names) > 1):
        raise RecipeError(
            f"there is no source '{source}'." if source else f"this run has {len(names)} sources.",
            where="--source",
            fix=f"There are {', '.join(names)}.",
        )
    return prepared.stores[source or names[0]]["train"]


def _copy(store: TokenStore, tokenizer: Tokenizer, target: Path) -> None:
    TokenStore.open(store.path, tokenizer=tokenizer)
    shutil.copytree(store.path, target)


def _facts(store: TokenStore) -> dict[str, Any]:
    packed = None if store.packed is None else store.packed.sequence
    return {
        "documents": store.num_documents,
        "tokens": store.num_tokens,
        "vocab_size": store.vocab_size,
        "packed": packed,
    }
