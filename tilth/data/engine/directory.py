"""The directory of a data run: what it is named after, whose it is, and what becomes of damage in it.

Every directory that a task made lists its files with their hashes, and so does the run's own; what differs is named
and made again, since each is a pure function of what was read.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.core import manifest, rundir
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.kinds import kind_of, refuse_other_run
from tilth.core.manifest import Manifest
from tilth.core.rundir import foreign, read_json
from tilth.core.text import visible

from . import steps
from .recipe import DataRecipe

_REMOVE = "Remove this directory and run the command that made it again."


def identity_of(recipe: DataRecipe) -> dict[str, Any]:
    """What decides a run's output. Raises DataError for a source that is not there."""
    data = recipe.to_dict()
    data.pop("card", None)
    return {
        "recipe": data,
        "sources": {n: s.fingerprint() for n, s in recipe.sources.items()},
        "files": dict(_fingerprints(recipe)),
        "code": _code(),
    }


def _fingerprints(recipe: DataRecipe) -> Iterator[tuple[str, Any]]:
    """Of what steps, signals and the tokenizer read."""
    configs: list[tuple[str, Any]] = [(f"signals.{i}", config) for i, config in enumerate(recipe.signals)]
    for _, label, config in recipe.labelled():
        needs = steps.needs(config.build())
        configs += [(label, config), *((f"{label}.{i}", need) for i, need in enumerate(needs))]
    if recipe.tokens is not None:
        configs.append(("tokenizer", recipe.tokens.tokenizer))
    return steps.fingerprints(configs)


def _code() -> str:
    """Hash of this package's source: another algorithm is another run."""
    root = Path(__file__).parents[1]
    files = sorted(p for p in root.rglob("*") if p.suffix in (".py", ".cpp", ".hpp"))
    return content_hash([[str(p.relative_to(root)), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])


_FILES = ("identity.json", "recipe.yaml", "origins.json", "ledger.json", "done.json", "files.json")
_OURS = ("read", "pass-*", "across-*", "documents", "tokens", "tokens-parts")


def sweep(dir: Path) -> None:
    """Remove what killed processes were making, however deep tasks make it. A worker may outlive its killed run:
    what it is at stays."""
    rundir.sweep(dir, *(f for pattern in _OURS for f in dir.glob(f"{pattern}/**") if f.is_dir()))


def claim(dir: Path, identity: dict[str, Any]) -> None:
    """Raise DataError if a directory holds anything else than this run, or one whose identity is damaged."""
    path = dir / "identity.json"
    refuse_other_run(dir, "data run")
    if not path.exists() and (others := foreign(dir)):
        raise DataError(
            f"this directory holds other things than a data run ({visible(', '.join(others[:3]))[:200]}).",
            where=str(dir),
            fix="Name a new or empty one with --run.",
        )
    if path.exists() and (before := _identity(dir)) != identity:
        changed = ", ".join(k for k in identity if before.get(k) != identity[k])
        raise DataError(
            f"this directory holds another run: its {changed} differ.",
            where=str(dir),
            fix="Name another directory with --run, or leave that out.",
        )


def _identity(dir: Path) -> dict[str, Any]:
    """Raises DataError, with what helps, if the file is damaged."""
    try:
        found = read_json(dir / "identity.json")
        Manifest(dir).check(lambda name: name == "identity.json")
        return found
    except DataError as err:
        if err.where == str(dir / manifest.LIST):  # the list is damaged; the identity will be compared as it is
            return found
        raise DataError(err.what, where=err.where, fix=_REMOVE) from None


def damage(dir: Path, expected: list[str]) -> dict[str, str]:
    """What is wrong with a finished run: name of a file that is not as it was written, or of a directory of `expected`
    that is gone -> words that follow "this file"."""
    gone = {name: "is missing" for name in expected if not (dir / name / manifest.LIST).is_file()}
    try:
        return manifest.verify(dir)[1] | gone
    except DataError:  # no list at all
        return gone or {manifest.LIST: "is missing"}


def remove_damaged(dir: Path, damaged: dict[str, str]) -> None:
    """Remove what is damaged of a finished run and all that was made from it, so that doing the run makes it again."""
    for name in ("done.json", "ledger.json"):
        (dir / name).unlink(missing_ok=True)
    first = {name.partition("/")[0] for name in damaged}
    shards = {"/".join(name.split("/")[:2]) for name in damaged if name.startswith("read/")}
    if first & {"read", "ids"}:
        shards.add("ids")
    made = ["tokens"] if "tokens" in first else []
    if first - {"tokens", *_FILES}:  # documents between passes are not kept, so all passes are done again
        made = [p.name for pattern in _OURS[1:] for p in dir.glob(pattern)]
    for name in (*shards, *made):
        shutil.rmtree(dir / name, ignore_errors=True)


def result(path: str | Path) -> Path:
    """The directory of a finished data run. Raises DataError if it is none or not finished."""
    path = Path(path)
    refuse_other_run(path, "data run")
    if kind_of(path) != "data run":
        raise DataError("this is no data run.", where=str(path), fix="`tilth data run RECIPE` makes one.")
    if not (path / "done.json").is_file():
        raise DataError("this data run has not finished.", where=str(path), fix="Run the same command again.")
    return path
