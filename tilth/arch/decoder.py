"""The decoder family: a pre-norm Transformer by default, and by its knobs most released dense language models.

Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), rotary positions (Su et al. 2021, arXiv:2104.09864)
with scaling, RMSNorm or LayerNorm, gated or plain feed-forward (Shazeer 2020, arXiv:2002.05202), QK-norm, sliding
windows, tied embeddings, soft-caps. The default is the Llama arrangement (Touvron et al. 2023, arXiv:2302.13971).
Packed documents never see each other: positions restart at each document and alone define the mask.

Fails when: a soft-cap is combined with QK-norm (logits are bounded twice; it trains, but pays for both); tied
embeddings are given a large `init_embedding_std` (the head then starts with large logits); windows are put on every
layer of a shallow model (the receptive field is layers * (window - 1) + 1). It has no partial rotary positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from tilth.core.errors import RecipeError

from .backbone import Decoder
from .knobs import Knobs
from .parts import keys_seen, multiplied

CARD = {
    "title": "Decoder-only Transformer from parts (Llama, Mistral, Qwen, Gemma 2, OLMo 2, GPT-2 by its knobs)",
    "paper": "arXiv:2302.13971",
    "claim": "logits equal the transformers implementation of each of the seven architectures to 1e-4 in float32",
    "baseline": "transformers' LlamaForCausalLM with the same shapes",
    "check": "tests/arch/test_hf.py: import, logits, export, logits again, for seven architectures",
}


class Config(Knobs):
    """The decoder: its knobs, and the model they make."""

    def build(self, vocab_size: int, max_sequence: int) -> Decoder:
        """A decoder whose parameters still need `init_weights` or loading."""
        for name, value in (("vocab_size", vocab_size), ("max_sequence", max_sequence)):
            if value < 1:
                raise RecipeError(f"{name} is {value}; a model needs at least 1.", where="model")
        return Decoder(self, vocab_size, max_sequence)

    def num_parameters(self, vocab_size: int, max_sequence: int | None = None) -> dict[str, int]:
        """Parameters by place, their `total`, and `matmul`: weights each token is multiplied with.

        A tied head counts once in the total and once in matmul. Learned positions need max_sequence.
        """
        if self._special:
            return self._counted(vocab_size, max_sequence or 1)
        D, L, F = self.width, self.layers, self.ffn_width_
        Q, KV = self.heads * self.head_width_, self.num_kv_heads * self.head_width_
        attention = D * (Q + 2 * KV) + Q * D
        ffn = (3 if self.gated else 2) * D * F
        matmul = L * (attention + ffn) + vocab_size * D
        attention += {"none": 0, "qkv": Q + 2 * KV, "all": Q + 2 * KV + D}[self.attention_bias]
        ffn += ((2 if self.gated else 1) * F + D) * self.ffn_bias
        normed = L * {"pre": 2, "post": 2, "sandwich": 4}[self.norm_placement] * D + D
        normed += L * {"none": 0, "head": 2 * self.head_width_, "full": Q + KV}[self.qk_norm]
        if self.norm == "single":
            normed = L * ({"pre": 2, "post": 2, "sandwich": 4}[self.norm_placement] + 2 * (self.qk_norm != "none")) + 1
        if self.position == "learned" and max_sequence is None:
            raise ValueError("learned positions have max_sequence rows; give max_sequence")
        parts = {
            "embedding": vocab_size * D,
            "position": max_sequence * D if self.position == "learned" and max_sequence else 0,
            "attention": L * attention,
            "ffn": L * ffn,
            "norm": normed * (2 if self.norm == "layer" else 1),
            "head": 0 if self.tied else vocab_size * D,
        }
        return {**parts, "total": sum(parts.values()), "matmul": matmul}

    @property
    def _special(self) -> bool:
        """A part is not the usual one, so that numbers are counted on a module built without memory."""
        return any((self.weights, self.attention, self.feedforward, self.embedding))

    def _empty(self, vocab_size: int, max_sequence: int) -> Decoder:
        with torch.device("meta"):
            return Decoder(self, vocab_size, max_sequence)

    def _counted(self, vocab_size: int, max_sequence: int) -> dict[str, int]:
        """`num_parameters` by counting."""
        model = self._empty(vocab_size, max_sequence)
        parts = {"embedding": 0, "position": 0, "attention": 0, "ffn": 0, "norm": 0, "head": 0}
        for name, p in model.named_parameters():
            inside = next((part for part in ("attention.", "ffn.", "norm") if part in name), name)
            place = {"attention.": "attention", "ffn.": "ffn", "norm": "norm"}.get(inside, name.partition(".")[0])
            parts[{"output": "head"}.get(place, place)] += p.numel()
        matmul = multiplied(model.blocks) + multiplied(model.embedding) + vocab_size * self.width
        return {**parts, "total": sum(parts.values()), "matmul": matmul}

    def flops_per_token(self, vocab_size: int, sequence: int) -> float:
        """Training FLOPs per token: 6 per matmul weight, and attention over the causal half (less with windows).

        A query sees T/2 keys on average, w - w^2 / 2T with a window w; each costs 12 * heads * head_width.
        """
        matmul = self.num_parameters(vocab_size, sequence)["matmul"]
        if self._special:
            blocks: Any = self._empty(1, 1).blocks
            return 6.0 * matmul + sum(block.attention.flops_per_token(sequence) for block in blocks)
        seen = sum(keys_seen(sequence, window) for window in self.windows)
        return 6.0 * matmul + 12.0 * self.heads * self.head_width_ * seen

    def activation_elements(self) -> int:
        """Elements a block keeps per token for its backward pass: two streams, two normed copies, queries, keys,
        values, what attention gives, and the feed-forward network's inner activations."""
        if self._special:
            blocks: Any = self._empty(1, 1).blocks
            each = [block.attention.activation_elements + block.ffn.activation_elements for block in blocks]
            return 4 * self.width + math.ceil(sum(each) / len(each))
        Q, KV = self.heads * self.head_width_, self.num_kv_heads * self.head_width_
        return 4 * self.width + 2 * Q + 2 * KV + (3 if self.gated else 2) * self.ffn_width_
