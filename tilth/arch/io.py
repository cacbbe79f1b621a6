"""A model as two files: model.safetensors (float32 weights) and model.json (what to build), json written last.

model.json: {"use": "decoder", …its fields…, "vocab_size", "max_sequence", "sha256" of model.safetensors}. A tied head
is the embedding's parameter, so it is stored once. Safetensors only; nothing here can run code.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tilth.core.errors import DataError, RecipeError
from tilth.core.hashing import file_hash
from tilth.core.rundir import MARK, fsync_dir, read_json, write_json
from tilth.core.technique import dump, resolve


def save_model(path: str | Path, config: Any, model: nn.Module, vocab_size: int, max_sequence: int) -> None:
    """Write the directory `path`: weights first, model.json last; a reader never sees one without the other."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.json").unlink(missing_ok=True)
    kept = {n: t.detach().cpu() for n, t in model.state_dict().items() if not n.startswith("extras.")}
    tensors = {n: (t.float() if t.is_floating_point() else t).contiguous() for n, t in kept.items()}
    save_tensors(path / "model.safetensors", tensors)
    about = {"vocab_size": vocab_size, "max_sequence": max_sequence, "sha256": file_hash(path / "model.safetensors")}
    write_json(path / "model.json", {**dump(config), **about})


def load_model(path: str | Path) -> Any:
    """The model in a directory that `save_model` wrote, float32 on the CPU.

    Raises DataError naming the file if one is missing or damaged or they do not fit each other.
    """
    path = Path(path)
    where = str(path / "model.json")
    about = read_json(path / "model.json")
    sizes = {}
    for name in ("vocab_size", "max_sequence"):
        sizes[name] = about.pop(name, None)
        if not isinstance(sizes[name], int) or isinstance(sizes[name], bool):
            raise DataError(f"{name} must be a whole number, not {sizes[name]!r:.40}.", where=where)
    digest = about.pop("sha256", None)
    file = path / "model.safetensors"
    tensors = read_tensors(file)
    if file_hash(file) != digest:
        raise DataError(
            "the weights are not those model.json was written for (their checksum differs).",
            where=str(file),
            fix="Write the model again; the file was damaged or replaced.",
        )
    try:
        config: Any = resolve("model", about)
        check_sizes(config, sizes["vocab_size"], tensors, where)
        with torch.device("meta"):  # shapes only; the file's tensors become the parameters
            model = config.build(**sizes)
    except RecipeError as err:
        raise DataError(err.what, where=f"{where}: {err.where}", fix=err.fix) from None
    fill(model, tensors, str(file))
    return model


def check_sizes(config: Any, vocab_size: int, tensors: Mapping[str, Tensor], where: str) -> None:
    """Hold a decoder's sizes against the tensors there are, before anything of these sizes is made.

    Raises DataError naming the size that no tensor has.
    """
    largest = max((side for t in tensors.values() for side in t.shape), default=0)
    asked = {"vocab_size": vocab_size, "width": config.width, "heads": config.heads, "head_width": config.head_width_}
    if config.feedforward is None:
        asked["ffn_width"] = config.ffn_width_
    for name, size in asked.items():
        if size > largest:
            what = f"{name} is {size:,}, and no side of a tensor is longer than {largest:,}"
            raise DataError(f"{what}: these weights are of another model.", where=where)
    if config.layers > len(tensors):
        what = f"layers is {config.layers:,}, and there are {len(tensors):,} tensors"
        raise DataError(f"{what}: these weights are of another model.", where=where)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Make the tensors the model's parameters (float32, no copy where they are) and buffers.

    Raises DataError naming `where` if one is missing, unexpected, of another shape, or not finite.
    """
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    missing, unexpected = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    for names, what in ((missing, "missing"), (unexpected, "not of this model")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DataError(f"the weights {', '.join(names[:3])}{more} are {what}.", where=where)
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise DataError(f"{name} has shape {list(tensors[name].shape)}, not {list(shape)}.", where=where)
        if tensors[name].is_floating_point() and not torch.isfinite(tensors[name]).all():
            raise DataError(f"{name} holds NaN or infinite values.", where=where)
    given = {n: t.to(torch.float32) if t.is_floating_point() else t for n, t in tensors.items()}
    model.load_state_dict(given, strict=True, assign=True)
    for name, param in model.named_parameters():  # assigning keeps the tensors' flag
        param.requires_grad_(trained[name])


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole: aside, fsync, rename. Tensors must be contiguous and on the CPU. Raises OSError
    naming the file if the disk is full."""
    fd, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{MARK}")
    os.close(fd)
    try:
        save_file(dict(tensors), aside, metadata={"format": "pt"})
        with open(aside, "rb") as f:
            os.fsync(f.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except SafetensorError as err:  # the library wraps the system's error in words
        Path(aside).unlink(missing_ok=True)
        if (number := re.search(r"os error (\d+)", str(err))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    except OSError as err:
        Path(aside).unlink(missing_ok=True)
        raise OSError(err.errno, err.strerror, str(path)) from None
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises DataError naming the file if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as f:
            return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise DataError("this file is missing.", where=str(path)) from None
    except (SafetensorError, OSError, ValueError) as err:
        raise DataError(f"this is not a whole safetensors file ({str(err)[:200]}).", where=str(path)) from None
