"""What a dataset of the hub, or a copy of one, is on disk: its commit, the hub's cache, files that are not read."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

from tilth.core.errors import DataError

from .files import HIDDEN, suffix_of


def commit(name: str, revision: str | None) -> str:
    """The commit that a revision stands for; a full commit as it is; offline, what was cached last. Raises
    DataError."""
    if revision and len(revision) == 40:
        return revision
    try:
        return imported("huggingface_hub").HfApi().dataset_info(name, revision=revision).sha
    except DataError:
        raise
    except Exception:
        ref = cache(name) / "refs" / (revision or "main")
        if ".." not in ref.parts and ref.is_file():
            return ref.read_text(encoding="utf-8").strip()
    raise DataError(
        "there is no such folder, and the hub does not know the dataset or cannot be reached.",
        where=name,
        fix="Check the name, or name a full commit as `revision` of a dataset that is in the cache.",
    )


def others(folder: Path, files: list[str]) -> Counter[str]:
    """Files of a folder that are not read, by suffix."""
    read = {str(Path(file)) for file in files}
    every = (p for p in folder.rglob("*") if p.is_file() and str(p.absolute()) not in read)
    hidden = lambda p: any(part.startswith(".") for part in p.relative_to(folder).parts)  # noqa: E731
    return Counter(HIDDEN if hidden(p) else suffix_of(p.name) for p in every)


def cache(name: str) -> Path:
    """Where the hub's own tools keep a dataset."""
    return Path(imported("huggingface_hub").constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"


FIELDS_BYTES = 1 << 20
"""What an object of JSON may have beside its text."""


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json"))


def imported(name: str) -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise DataError(
            f"'{name}' is needed to read datasets of the hub and cannot be imported ({err}).",
            where="source hub",
            fix="pip install datasets",
        ) from None
