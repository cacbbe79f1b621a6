"""The knobs of the decoder and what follows from them: all that its parts know of a recipe."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tilth.core.config import Config
from tilth.core.errors import RecipeError
from tilth.core.protocols import EmbeddingSpec, PartSpec, PositionSpec, WeightSpec
from tilth.core.technique import slot


class Knobs(Config):
    """Every knob of the decoder. `null` means: derive from the others, as the field says."""

    layers: int = Field(ge=1, le=1000)
    """Blocks."""
    width: int = Field(ge=1, le=1 << 20)
    """Size D of the residual stream."""
    heads: int = Field(ge=1, le=1 << 16)
    """Query heads."""
    kv_heads: int | None = Field(None, ge=1, le=1 << 16)
    """Key/value heads, a divisor of heads; null: as many as heads. 1: multi-query."""
    head_width: int | None = Field(None, ge=1, le=1 << 20)
    """Size E of a head; null: width / heads."""
    ffn: Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu2"] = "swiglu"
    """Feed-forward kind; swiglu and geglu are gated (geglu with the tanh form of GELU)."""
    ffn_width: int | None = Field(None, ge=1, le=1 << 24)
    """Hidden size; null: 8/3 width if gated, else 4 width, rounded up to a multiple of 64."""
    ffn_bias: bool = False
    """Biases in the feed-forward projections."""
    attention_bias: Literal["none", "qkv", "all"] = "none"
    """Biases in the attention projections; all: also in the output projection."""
    qk_norm: Literal["none", "head", "full"] = "none"
    """Norm of queries and keys before rotation: over each head (Qwen 3) or the whole projection (OLMo 2)."""
    norm: Literal["rms", "single", "layer"] = "rms"
    """RMSNorm; with one gain for all channels, which lets no channel grow alone (OSP); or LayerNorm with bias."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the mean square or variance."""
    norm_gain: Literal["w", "1+w"] = "w"
    """What multiplies the normed value; 1+w (Gemma) lets weight decay pull to the identity."""
    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    """x + f(norm(x)), x + norm(f(x)) (OLMo 2), or x + norm(f(norm(x))) (Gemma 2)."""
    position: Literal["rope", "learned", "none"] = "rope"
    """Rotary, a learned table of max_sequence rows, or nothing but the causal mask."""
    rope_theta: float = Field(10000.0, gt=1)
    """Base of the rotary frequencies."""
    rope_scaling: Annotated[PositionSpec, slot("position")] | None = None
    """Stretching rotary positions to longer sequences: `{use: yarn, factor: 4, original_sequence: 2048}`."""
    window: int | None = Field(None, ge=1)
    """Sliding window in tokens, the current one included; null: full attention."""
    window_pattern: str = Field("S", pattern=r"^[SF]+$")
    """Which layers slide (S) and which see all (F), repeated over the layers, e.g. SF or SSSF."""
    attention_softcap: float | None = Field(None, gt=0)
    """c tanh(score / c) on attention scores; null: none."""
    attention_scale: float | None = Field(None, ge=1e-6, le=1e6)
    """Multiplier of q.k; null: 1/sqrt(head_width)."""
    logit_softcap: float | None = Field(None, gt=0)
    """c tanh(logit / c) on the output; null: none."""
    embedding_scale: float | Literal["sqrt_width"] = Field(1.0)
    """Multiplier of the token embeddings; sqrt_width is Gemma's."""
    tied: bool = False
    """The output head is the embedding matrix."""
    weights: Annotated[WeightSpec, slot("weights")] | None = None
    """Parameterisation of the linear layers inside the blocks; null: dense matrices."""
    attention: Annotated[PartSpec, slot("attention")] | None = None
    """Another attention than the grouped-query one of the fields above."""
    feedforward: Annotated[PartSpec, slot("feedforward")] | None = None
    """Another feed-forward network than `ffn`."""
    embedding: Annotated[EmbeddingSpec, slot("embedding")] | None = None
    """Something else between tokens and blocks than a table of rows."""
    init_std: float | None = Field(0.02, gt=0)
    """Standard deviation of matrices and the head (normal, cut at 3 of them); null: 1/sqrt(inputs) of each."""
    init_residual: Literal["depth", "per_layer", "same"] = "depth"
    """Matrices that write to the residual stream are divided by sqrt(2 layers) (GPT-2), sqrt(2 (layer+1)), or 1."""
    init_embedding_std: float | None = Field(None, gt=0)
    """Standard deviation of embeddings; null: as init_std."""

    @model_validator(mode="after")
    def _consistent(self) -> Knobs:
        if self.head_width is None and self.width % self.heads:
            good = [h for h in range(1, self.width + 1) if self.width % h == 0]
            near = [h for h in good if h < self.heads][-1:] + [h for h in good if h > self.heads][:1]
            raise RecipeError(
                f"a width of {self.width} does not divide among {self.heads} heads.",
                where="heads",
                fix=f"Take {' or '.join(map(str, near))} heads, or set head_width.",
            )
        if self.heads % self.num_kv_heads:
            good = [g for g in range(1, self.heads + 1) if self.heads % g == 0]
            raise RecipeError(
                f"{self.heads} query heads cannot share {self.num_kv_heads} key/value heads evenly.",
                where="kv_heads",
                fix=f"Take a divisor of {self.heads}: {', '.join(map(str, good))}.",
            )
        if self.position == "rope" and self.head_width_ % 2:
            raise RecipeError(
                f"rotary positions turn pairs, and a head width of {self.head_width_} is odd.",
                where="head_width",
                fix=f"Set head_width to {self.head_width_ + 1}, or position to learned or none.",
            )
        if self.position != "rope":
            self._refuse_unused("rope_theta", "rope_scaling", because=f"position is {self.position}", fix="rope")
        elif self.rope_scaling is not None:
            self.rope_scaling.base(self.rope_theta, self.rotary_width)  # refuses what it cannot do
        if self.window is None:
            self._refuse_unused("window_pattern", because="there is no window", fix="a number of tokens")
        elif "S" not in self.window_pattern:
            raise RecipeError("no layer slides, so window has no effect.", where="window_pattern", fix="Use an S.")
        if len(self.window_pattern) > self.layers:
            raise RecipeError(
                f"{len(self.window_pattern)} letters for {self.layers} layers.",
                where="window_pattern",
                fix="Give at most one letter per layer.",
            )
        if self.norm == "layer" and self.norm_gain == "1+w":
            raise RecipeError("1+w is for RMSNorm.", where="norm_gain", fix="Set norm_gain to w or norm to rms.")
        if isinstance(self.embedding_scale, float) and self.embedding_scale <= 0:
            raise RecipeError("the multiplier must be positive.", where="embedding_scale")
        return self

    def _refuse_unused(self, *fields: str, because: str, fix: str) -> None:
        for name in fields:
            if getattr(self, name) != type(self).model_fields[name].default:
                other = "position" if name.startswith("rope") else "window"
                raise RecipeError(
                    f"this has no effect: {because}.", where=name, fix=f"Remove it, or set {other} to {fix}."
                )

    # ---- what follows from the knobs

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads, derived if not given."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width_(self) -> int:
        """Head width, derived if not given."""
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def rotary_width(self) -> int:
        """Width of the rotary tables: the head's, or of the part of it that an attention rotates."""
        own = getattr(self.attention, "rotary_width", None)
        return self.head_width_ if own is None else own(self)

    @property
    def gated(self) -> bool:
        """The feed-forward network has a gate."""
        return self.ffn in ("swiglu", "geglu")

    @property
    def ffn_width_(self) -> int:
        """Feed-forward width, derived if not given."""
        if self.ffn_width is not None:
            return self.ffn_width
        return 64 * math.ceil((8 * self.width / 3 if self.gated else 4 * self.width) / 64)

    @property
    def windows(self) -> list[int | None]:
        """The window of each layer, None where it sees all."""
        pattern = self.window_pattern
        return [self.window if pattern[i % len(pattern)] == "S" else None for i in range(self.layers)]
