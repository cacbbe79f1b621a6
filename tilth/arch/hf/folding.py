"""A model written with plain parts: what training needed and use does not is multiplied into the matrices around it.

One gain for all channels becomes a gain for each; projections around the embedding and frozen rows become tables; a
feed-forward technique that the decoder itself has becomes its knob; a bias that is missing beside others is one of
zeros. Logits stay equal to rounding. What has no plain form stays, and the export says so.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.io import fill
from tilth.arch.knobs import Knobs

K = TypeVar("K", bound=Knobs)


def plain_config(config: K) -> K:
    """The decoder's configuration with its plain equals for what can be folded."""
    change: dict[str, Any] = {}
    if config.norm == "single":
        change["norm"] = "rms"
    if config.embedding is not None:
        change |= {"embedding": None, "tied": False}
    feedforward: Any = config.feedforward
    if hasattr(feedforward, "plain"):
        change |= {"feedforward": None, **feedforward.plain(config)}
    return config.model_copy(update=change) if change else config


def with_output_bias(config: Config) -> Config:
    """The configuration with a bias in every attention projection, of zeros where there was none; itself if that would
    be other than one beside those of queries, keys and values."""
    return config.model_copy(update={"attention_bias": "all"}) if config.attention_bias == "qkv" else config


def plain_model(model: Decoder, config: Knobs | None = None) -> Decoder:
    """The model itself, or one of plain parts (None: those of `plain_config`) with equal logits."""
    config = plain_config(model.config) if config is None else config
    if config == model.config:
        return model
    with torch.device("meta"):
        folded = Decoder(config, model.vocab_size, model.max_sequence)
    with torch.no_grad():
        tensors = {n: p.detach() for n, p in model.state_dict().items()}
        embedding: Any = model.embedding
        if hasattr(embedding, "folded"):
            tables = embedding.folded(model.head().weight)
            tensors["embedding.weight"], tensors["output.weight"] = tables
        kept = {}
        for name, p in folded.named_parameters():
            tensor = tensors[name] if name in tensors else torch.zeros(p.shape)  # a bias there was not
            kept[name] = (
                (tensor if tensor.shape == p.shape else tensor.expand(p.shape)).cpu().float().contiguous().clone()
            )
    fill(folded, kept, "model")
    return folded.to_compute(model.compute_dtype)
