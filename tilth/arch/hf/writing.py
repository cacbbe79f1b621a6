"""A decoder as a Hugging Face directory that transformers and vLLM load; written whole, proved before it appears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.io import save_tensors
from tilth.arch.weights import common
from tilth.core import owned, progress
from tilth.core.errors import DataError
from tilth.core.rundir import read_json, write_json

from .compare import Parity, parity
from .families import FAMILIES, Family
from .folding import plain_config, plain_model, with_output_bias
from .reading import DTYPES, end_tokens
from .tokens import TOKEN_IDS, Tokenizer, TokenParity, rebuilt, token_parity


@dataclass(frozen=True)
class Export:
    """A finished export."""

    path: str
    format: str
    dtype: str
    parity: Parity
    tokens: TokenParity | None
    """None: it was exported without a tokenizer."""

    def __str__(self) -> str:
        return f"{self.format} ({self.dtype}): {self.parity}" + (f"; {self.tokens}" if self.tokens else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        about = {"path": self.path, "format": self.format, "dtype": self.dtype, "parity": self.parity.to_dict()}
        return about | {"tokens": self.tokens.to_dict() if self.tokens else None}


@dataclass(frozen=True)
class Choice:
    """An architecture, and the decoder as it is written there: with equal logits."""

    family: Family
    config: Config


def export_hf(
    path: str | Path,
    config: Any,
    model: Decoder,
    tokenizer: Tokenizer | None,
    *,
    format: str = "auto",
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
    generation: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Export:
    """Write config.json, safetensors, tokenizer and generation config; compare logits block by block, and token ids.

    format: an architecture, or "auto" for the first that has all of the decoder's parts. generation: fields for
    generation_config.json besides the token ids. An earlier export at `path` is replaced; where anything else lies
    there, `force` writes beside it. Raises DataError if no architecture fits or the tokenizer does not, ProofFailed if
    logits or token ids differ; then nothing is left behind. dtype: one of `DTYPES`.
    """
    path = Path(path)
    if config.weights is not None and common.foldable(config):
        model = common.folded(model)
        config = model.config
    choice = choose(config, model.max_sequence, format, tokenizer)
    model = plain_model(model, choice.config)
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model rows for {model.vocab_size}.",
            where=str(path),
            fix="Export the model with the tokenizer it was trained with.",
        )
    if dtype not in DTYPES:
        raise DataError(f"weights are not written as {dtype!r:.40}.", where="dtype", fix="Known: " + ", ".join(DTYPES))
    with owned.replacing(path, force) as aside:
        _write(aside, choice, model, tokenizer, dtype, max_shard_bytes, generation or {})
        proof = parity(aside, model)
        tokens = None if tokenizer is None else token_parity(aside, tokenizer)
    proof = Parity(str(path), proof.reader, proof.tokens, proof.tolerance, proof.stages)
    return Export(str(path), choice.family.name, dtype, proof, tokens)


def choose(config: Any, max_sequence: int, format: str = "auto", tokenizer: Tokenizer | None = None) -> Choice:
    """The architecture to write as. Raises DataError with what it cannot express, of the model or the tokenizer."""
    if format != "auto" and format not in FAMILIES:
        raise DataError(f"there is no export format {format!r:.40}.", fix="Known: auto, " + ", ".join(FAMILIES) + ".")
    if config.weights is not None and common.foldable(config):
        config = config.model_copy(update={"weights": None})
    config = plain_config(config)
    families = FAMILIES.values() if format == "auto" else [FAMILIES[format]]
    reasons: dict[str, str] = {}
    biased = with_output_bias(config)
    for variant in (config, biased) if biased is not config else (config,):
        for family in families:
            lost = [family.loss(variant, max_sequence)]
            lost += [] if tokenizer is None else [rebuilt(family.name, tokenizer.parsed)]
            why = ", ".join(filter(None, lost))
            if not why:
                return Choice(family, variant)
            reasons.setdefault(family.name, why)
    counts = {name: why.count("would become") + why.count(TOKEN_IDS) or 99 for name, why in reasons.items()}
    nearest = min(counts, key=counts.__getitem__)
    whose = f"no Hugging Face architecture of {', '.join(FAMILIES)} has" if format == "auto" else f"{format} lacks"
    raise DataError(
        f"{whose} all of this model's parts; {nearest} comes nearest but for {reasons[nearest]}.",
        where="export.format",
        fix="Export as none, or train with parts that an architecture has.",
    )


def _write(
    path: Path,
    choice: Choice,
    model: Decoder,
    tokenizer: Tokenizer | None,
    dtype: str,
    max_shard_bytes: int,
    generation: Mapping[str, Any],
) -> None:
    family = choice.family
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        ends = end_tokens(tokenizer.eos_id, generation)
        ids["bos_token_id"], ids["pad_token_id"] = tokenizer.bos_id, tokenizer.pad_id
        ids["eos_token_id"] = ends if len(ends) > 1 else tokenizer.eos_id if not ends else ends[0]
        tokenizer.save(path)
        config = read_json(path / "tokenizer_config.json", finite=False)
        write_json(path / "tokenizer_config.json", config | {"model_max_length": model.max_sequence})
    about = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": model.vocab_size,
        "dtype": dtype,
        "torch_dtype": dtype,  # its name before transformers 4.56
        **ids,
    }
    write_json(path / "config.json", about | family.write(choice.config, model.max_sequence))
    first = ids["eos_token_id"][0] if isinstance(ids["eos_token_id"], list) else ids["eos_token_id"]
    padding = {"pad_token_id": first if ids["pad_token_id"] is None else ids["pad_token_id"]}
    said = {k: v for k, v in ids.items() if v is not None}
    write_json(path / "generation_config.json", {**ids, **padding, **generation, **said})
    _write_weights(path, theirs(family, model, getattr(torch, dtype)), max_shard_bytes)


def theirs(family: Family, model: Decoder, dtype: torch.dtype) -> dict[str, Tensor]:
    """Our parameters under their names, fused and turned as theirs are."""
    params = dict(model.named_parameters())
    out = {}
    layout = family.layout(params)
    with progress.stage("exporting", len(layout), "tensors") as advance:
        for name, ours in layout.items():
            tensor = torch.cat([params[n].detach().to("cpu", dtype) for n in ours])
            out[name] = (tensor.T if family.is_transposed(name) else tensor).contiguous()
            advance(1)
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
