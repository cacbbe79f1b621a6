"""Models made once and kept under the key of what they were made from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tilth.core import cache
from tilth.core.cache import cache_dir
from tilth.core.errors import DataError
from tilth.core.hashing import file_hash

WEIGHTS, SHEET = "model.safetensors", "model.json"


def once(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory of a model, kept for the user; `make` fills an empty one where it is not there yet."""
    return cache.once(cache_dir() / "models" / f"{kind}-{key}", make, warnings.warn)


def write(folder: Path, kind: str, sheet: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """`model.safetensors` and `model.json`, which says what the other must hash to."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / WEIGHTS)
    full = {"kind": kind, "sha256": file_hash(folder / WEIGHTS), **sheet}
    (folder / SHEET).write_text(json.dumps(full, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def sheet(folder: Path, kind: str) -> dict[str, Any]:
    """The plain half of a model. Raises DataError where there is none of this kind."""
    path = folder / SHEET
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError("there is no model here.", where=str(path), fix=f"It is a folder with {SHEET}.") from None
    except (ValueError, RecursionError):
        raise DataError("this is not readable as JSON.", where=str(path)) from None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise DataError(f"this is no model of the kind '{kind}'.", where=str(path))
    return found


def read(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Both halves. Raises DataError where one is missing or the weights are not the ones the sheet was written for."""
    from safetensors.numpy import load_file

    found, path = sheet(folder, kind), folder / WEIGHTS
    if not path.is_file() or file_hash(path) != found.get("sha256"):
        raise DataError("the weights are missing or damaged.", where=str(path), fix="Train the model again.")
    return found, load_file(path)
