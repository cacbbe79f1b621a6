"""Training a classifier by hand, apart from a recipe that names its examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.core.layers import parse_overrides
from tilth.core.rundir import whole_dir

from . import linear
from .examples import Examples


def classifier(
    folder: Path,
    positive: Sequence[str],
    negative: Sequence[str],
    labelled: Sequence[str],
    settings: Sequence[str],
    target: str,
) -> dict[str, Any]:
    """Train one into a new folder; returns its sheet: settings, numbers of examples, figures on held-out texts.

    settings  fields of `tilth.data.scoring.linear.Learning` as "name=value"
    Raises DataError if the folder exists or the examples do not do, RecipeError for a wrong setting.
    """
    if folder.exists():
        raise DataError("this folder exists.", where=str(folder), fix="Name a new one.")
    learning = validate(linear.Learning, parse_overrides(list(settings)), where="settings")
    files = {label: list(given) for label, given in (("positive", positive), ("negative", negative)) if given}
    model = linear.train(Examples(labelled=list(labelled), files=files), learning, target)
    with whole_dir(folder) as aside:
        model.save(aside)
    return model.sheet


def tell(folder: Path, sheet: dict[str, Any]) -> Iterator[str]:
    """Lines for a person."""
    examples = ", ".join(f"{n:,} {label}" for label, n in sheet["examples"].items())
    yield f"{folder}: trained on {examples}"
    for name, value in sheet["held_out"].items():
        if isinstance(value, (int, float)):
            yield f"  held out {name}: {value:.4g}"
    yield f"  use it: {{use: classifier, model: {folder}, positive: {sheet['positive']}}}"
