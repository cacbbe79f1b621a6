"""A decoder as a Hugging Face directory that transformers and vLLM load; written whole, proved before it appears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.io import save_tensors
from tilth.arch.weights import common
from tilth.core import owned
from tilth.core.errors import DataError
from tilth.core.rundir import read_json, write_json

from .compare import Parity, parity
from .families import FAMILIES, Family
from .folding import plain_config, plain_model


class Tokenizer(Protocol):
    """What export needs of a tokenizer."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""


@dataclass(frozen=True)
class Export:
    """A finished export."""

    path: str
    format: str
    dtype: str
    parity: Parity

    def __str__(self) -> str:
        return f"{self.format} ({self.dtype}): {self.parity}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"path": self.path, "format": self.format, "dtype": self.dtype, "parity": self.parity.to_dict()}


def export_hf(
    path: str | Path,
    config: Config,
    model: Decoder,
    tokenizer: Tokenizer | None,
    *,
    format: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    max_shard_bytes: int = 5_000_000_000,
    generation: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Export:
    """Write config.json, safetensors, tokenizer and generation config, and compare logits block by block.

    format: an architecture, or "auto" for the first that has all of the decoder's parts. generation: fields for
    generation_config.json besides the token ids. An earlier export at `path` is replaced; where anything else lies
    there, `force` writes beside it. Raises DataError if no architecture fits or the tokenizer does not, ProofFailed if
    the logits differ; then nothing is left behind.
    """
    path = Path(path)
    if config.weights is not None and common.foldable(config):
        model = common.folded(model)
        config = model.config
    family = choose(config, model.max_sequence, format)
    config, model = plain_config(config), plain_model(model)
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model rows for {model.vocab_size}.",
            where=str(path),
            fix="Export the model with the tokenizer it was trained with.",
        )
    with owned.replacing(path, force) as aside:
        _write(aside, family, config, model, tokenizer, getattr(torch, dtype), max_shard_bytes, generation)
        proof = parity(aside, model)
    proof = Parity(str(path), proof.reader, proof.tokens, proof.tolerance, proof.stages)
    return Export(str(path), family.name, dtype, proof)


def choose(config: Config, max_sequence: int, format: str = "auto") -> Family:
    """The architecture to write as. Raises DataError with what it cannot express."""
    if format != "auto" and format not in FAMILIES:
        raise DataError(f"there is no export format {format!r:.40}.", fix="Known: auto, " + ", ".join(FAMILIES) + ".")
    if config.weights is not None and common.foldable(config):
        config = config.model_copy(update={"weights": None})
    reasons, config = {}, plain_config(config)
    for family in FAMILIES.values() if format == "auto" else [FAMILIES[format]]:
        reasons[family.name] = family.loss(config, max_sequence)
        if not reasons[family.name]:
            return family
    nearest = min(reasons, key=lambda name: reasons[name].count("would become") or 99)
    whose = f"no Hugging Face architecture of {', '.join(FAMILIES)} has" if format == "auto" else f"{format} lacks"
    raise DataError(
        f"{whose} all of this model's parts; {nearest} comes nearest but for {reasons[nearest]}.",
        where="export.format",
        fix="Export as none, or train with parts that an architecture has.",
    )


def _write(
    path: Path,
    family: Family,
    config: Config,
    model: Decoder,
    tokenizer: Tokenizer | None,
    dtype: torch.dtype,
    max_shard_bytes: int,
    generation: Mapping[str, Any] | None,
) -> None:
    ids: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        ids |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        _write_tokenizer(path, tokenizer, model.max_sequence)
    about = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": model.vocab_size,
        "dtype": str(dtype).removeprefix("torch."),
        "torch_dtype": str(dtype).removeprefix("torch."),  # its name before transformers 4.56
        **ids,
    }
    write_json(path / "config.json", about | family.write(config, model.max_sequence))
    padding = {"pad_token_id": ids["eos_token_id"]}
    write_json(path / "generation_config.json", {**ids, **padding, **(generation or {})})
    _write_weights(path, theirs(family, model, dtype), max_shard_bytes)


def theirs(family: Family, model: Decoder, dtype: torch.dtype) -> dict[str, Tensor]:
    """Our parameters under their names, fused and turned as theirs are."""
    params = dict(model.named_parameters())
    out = {}
    for name, ours in family.layout(params).items():
        tensor = torch.cat([params[n].detach().to("cpu", dtype) for n in ours])
        out[name] = (tensor.T if family.is_transposed(name) else tensor).contiguous()
    return out


def _write_weights(path: Path, tensors: dict[str, Tensor], max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and size > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = tensor
        room -= size
    if len(shards) == 1:
        save_tensors(path / "model.safetensors", tensors)
        return
    where = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_tensors(path / file, shard)
        where.update(dict.fromkeys(shard, file))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _write_tokenizer(path: Path, tokenizer: Tokenizer, max_sequence: int) -> None:
    """The tokenizer's own two files; its config made loadable and free of pointers to remote code."""
    tokenizer.save(path)
    config = {k: v for k, v in read_json(path / "tokenizer_config.json").items() if k != "auto_map"}
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    write_json(path / "tokenizer_config.json", {**config, "model_max_length": max_sequence})
