"""Does another reader compute the same from an exported directory? Compared block by block, in float32.

The reader is transformers where it is installed; without it, tilth's own importer, and the result says so.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilth.arch.backbone import Decoder
from tilth.core.errors import ProofFailed
from tilth.core.rundir import read_json
from tilth.core.streams import stream

from .reading import import_hf, read_config

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Stage:
    """One point of the forward pass."""

    name: str
    difference: float
    """Largest absolute difference."""
    scale: float
    """Largest absolute value of the reference."""

    def agrees(self, tolerance: float) -> bool:
        """Within tolerance, relative to the largest value where that is above 1; NaN never agrees."""
        return self.difference <= tolerance * max(1.0, self.scale)


@dataclass(frozen=True)
class Parity:
    """The comparison of our forward pass with another reader's, from the embedding to the logits."""

    path: str
    reader: str
    tokens: int
    tolerance: float
    stages: list[Stage]

    @property
    def first_diverging(self) -> Stage | None:
        """The first stage out of tolerance, None if all agree."""
        return next((s for s in self.stages if not s.agrees(self.tolerance)), None)

    @property
    def logit_difference(self) -> float:
        """Largest absolute difference of logits."""
        return self.stages[-1].difference

    def __str__(self) -> str:
        if self.first_diverging is not None:
            bad = self.first_diverging
            return f"diverges from {self.reader} first in {bad.name}, by {bad.difference:.1e} of {bad.scale:.1e}"
        return (
            f"logits equal those of {self.reader} to {self.logit_difference:.1e} "
            f"({len(self.stages) - 3} blocks, {self.tokens} tokens, float32)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "agrees": self.first_diverging is None}


def parity(path: str | Path, model: Decoder, ids: Tensor | None = None, *, tolerance: float = TOLERANCE) -> Parity:
    """Compare `model` with what another reader makes of the directory `path`.

    ids int64 [B, T]; None: 2 rows of random tokens, long enough to leave a window of up to 256 tokens. Weights are
    rounded as the directory stores them. Raises ProofFailed naming the first diverging block.
    """
    path = Path(path)
    _, config, vocab_size, max_sequence = read_config(path)
    if vocab_size != model.vocab_size:
        raise ProofFailed(
            f"the directory has {vocab_size} tokens in its vocabulary, the model {model.vocab_size}.", where=str(path)
        )
    if ids is None:
        length = min(max_sequence, model.max_sequence, max(64, min(config.window or 0, 256) + 8))
        ids = torch.from_numpy(stream(0, "parity").integers(0, vocab_size, (2, length)))
    about = read_json(path / "config.json")
    stored = about.get("dtype") or about.get("torch_dtype") or "float32"
    with torch.no_grad():
        ours = trace_ours(_rounded(model, getattr(torch, stored)), ids)
        if has_transformers():
            reader, theirs = _trace_transformers(path, ids, config.layers)
        else:
            reader, theirs = (
                "tilth's own importer (transformers is not installed)",
                trace_ours(import_hf(path).model, ids),
            )
    stages = []
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        stages.append(Stage(name, float((a - b).abs().max()), float(b.abs().max())))
    result = Parity(str(path), reader, ids.numel(), tolerance, stages)
    bad = result.first_diverging
    if bad is not None:
        raise ProofFailed(
            f"the first stage that differs from {reader} is {bad.name}: "
            f"by {bad.difference:.3g} where the largest value is {bad.scale:.3g}.",
            where=str(path),
        )
    return result


def has_transformers() -> bool:
    """Whether transformers is installed; it is never required."""
    return importlib.util.find_spec("transformers") is not None


Trace = list[tuple[str, Tensor]]


def trace_ours(model: Decoder, ids: Tensor) -> Trace:
    """(stage, float32 values on the CPU): embedding, each block's residual stream, final norm, logits."""
    out: Trace = []
    handles = [
        model.blocks[0].register_forward_pre_hook(lambda m, args: out.append(("embedding", _keep(args[0])))),
        *(
            block.register_forward_hook(
                lambda m, args, stream, i=i: out.append((f"block {i}", _keep(stream[0] + stream[1])))
            )
            for i, block in enumerate(model.blocks)
        ),
    ]
    dtype, model.compute_dtype = model.compute_dtype, torch.float32
    try:
        hidden = model.hidden(ids.to(model.embedding.weight.device))
        out += [("the final norm", _keep(hidden)), ("the head", _keep(model.logits(hidden)))]
    finally:
        model.compute_dtype = dtype
        for handle in handles:
            handle.remove()
    return out


def _trace_transformers(path: Path, ids: Tensor, layers: int) -> tuple[str, Trace]:
    import transformers

    with quiet(transformers):
        try:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True
            ).eval()
        except Exception as err:  # whatever it cannot read is a failed proof, with its own words
            raise ProofFailed(f"transformers cannot load it: {str(err)[:300]}", where=str(path)) from None
    core = theirs.base_model
    blocks = core.h if hasattr(core, "h") else core.layers
    norm = core.ln_f if hasattr(core, "ln_f") else core.norm
    out: Trace = []

    def first(value: Any) -> Tensor:
        return value[0] if isinstance(value, tuple) else value

    blocks[0].register_forward_pre_hook(
        lambda m, args, kwargs: out.append(("embedding", _keep(args[0] if args else kwargs["hidden_states"]))),
        with_kwargs=True,
    )
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda m, args, value, i=i: out.append((f"block {i}", _keep(first(value)))))
    norm.register_forward_hook(lambda m, args, value: out.append(("the final norm", _keep(value))))
    out.append(("the head", _keep(theirs(input_ids=ids, use_cache=False).logits)))
    if len(out) != layers + 3:
        raise ProofFailed(f"transformers built {len(out) - 3} blocks of {layers}.", where=str(path))
    return f"transformers {transformers.__version__}", out


def _keep(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32)


def _rounded(model: Decoder, dtype: torch.dtype) -> Decoder:
    """The model with its weights rounded to `dtype`; itself for float32."""
    if dtype == torch.float32:
        return model
    model = copy.deepcopy(model)
    for param in model.parameters():
        param.data = param.data.to(dtype).float()
    return model


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and warnings of transformers while we use it."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
