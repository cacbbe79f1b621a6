"""Saved models, opened: a run, an import or a Hugging Face directory as a speaker; a checkpoint brought in as a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tilth.arch import hf, io
from tilth.core import device
from tilth.core.errors import DataError, RunInUse
from tilth.core.kinds import refuse_other_run
from tilth.core.manifest import LIST, Manifest, seal
from tilth.core.rundir import RunDir, read_json, whole_dir, write_json, write_whole
from tilth.core.technique import dump
from tilth.data.tokens.tokenizer import Tokenizer

from .speaker import Speaker

GENERATION = "generation_config.json"
ORIGIN = "origin.json"
"""How an imported model was stored: {"dtype"}. Both go along to what is trained from it."""


def load(path: str | Path) -> Speaker:
    """A speaker from a run directory or a Hugging Face directory, on the device at hand. Raises DataError for anything
    else."""
    speaker = read(Path(path))
    speaker.model.to(device.at_hand())
    return speaker


def read(path: Path) -> Speaker:
    """The same in the machine's memory."""
    refuse_other_run(path, "training run")
    if (path / "model" / "model.json").is_file():
        _check_files(path)
        dtype = read_json(path / ORIGIN, missing={}).get("dtype", "float32")
        generation = read_json(path / GENERATION, missing=None, finite=False)
        model, tokenizer = io.load_model(path / "model"), Tokenizer.load(path / "tokenizer")
        return Speaker(model, tokenizer, generation=generation, dtype=dtype)
    if (path / "config.json").is_file():
        changed = f"Export the model again. If the change was meant, remove {path / LIST}."
        Manifest(path).check(fix=changed)
        brought = hf.import_hf(path)
        tokenizer, generation = Tokenizer.load(brought.tokenizer), hf.generation_config(path)
        return Speaker(brought.model, tokenizer, generation=generation, dtype=brought.dtype)
    if (path / "recipe.yaml").is_file():
        raise DataError("this run has no finished model yet.", where=str(path), fix="`tilth run` it to its end first.")
    lists = "`tilth ls` lists the runs; 'latest' is the newest."
    if not path.exists():
        raise DataError("there is no such directory.", where=str(path), fix=lists)
    raise DataError(
        "this is neither a run directory (model/model.json) nor a Hugging Face directory (config.json).",
        where=str(path),
        fix=f"`tilth run {path}` makes a run of a recipe. {lists}" if path.suffix in (".yaml", ".yml") else lists,
    )


def _check_files(run: Path) -> None:
    """Raise DataError naming a file of a run or import that decides what the model says and has changed. The weights
    are compared with model.json when they are read."""
    again = run / "recipe.yaml"
    fix = f"`tilth run {again} --run {run}` tells what helps." if again.exists() else "Import the model again."
    Manifest(run).check(lambda n: n in ("model/model.json", GENERATION, ORIGIN) or n.startswith("tokenizer/"), fix)


def import_hf(hf_dir: str | Path, run_dir: str | Path, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Bring a Hugging Face checkpoint into a new run directory, with a `base.yaml` a recipe can extend.

    Raises RunInUse if the directory holds a run already.
    """
    target = RunDir(run_dir)
    if target.path.exists():
        raise RunInUse("there is something in this place already.", where=str(target.path), fix="Name a new one.")
    config, model, tokenizer_dir, dtype = hf.import_hf(Path(hf_dir), ignore=tuple(ignore))
    tokenizer = Tokenizer.load(tokenizer_dir)
    Speaker(model, tokenizer)  # refuses a tokenizer that does not fit
    base = {"model": dump(config), "tokenizer": {"use": "pretrained", "path": "tokenizer"}, "init": "."}
    with whole_dir(target.path) as aside:
        tokenizer.save(aside / "tokenizer")
        io.save_model(aside / "model", config, model, model.vocab_size, model.max_sequence)
        write_json(aside / GENERATION, hf.generation_config(hf_dir))
        write_json(aside / ORIGIN, {"dtype": dtype})
        write_whole(aside / "base.yaml", yaml.safe_dump(base, sort_keys=False))
        seal(aside)
    total = config.num_parameters(model.vocab_size, model.max_sequence)["total"]
    return {"run": str(target.path), "base": str(target / "base.yaml"), "parameters": total}
