"""The seven architectures: how each one's config.json and tensor names say what the decoder's knobs say.

A family is two translations, `read` (config.json -> decoder fields) and `write` (decoder -> config.json), and a table
of tensor names. Whether a family can express a decoder is decided by a round trip, `loss`: write, read back, compare
what the model computes. So a knob without a place in config.json cannot be lost in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.arch.decoder import Config
from tilth.arch.position import linear, llama3, yarn
from tilth.core.config import validate
from tilth.core.errors import DataError, RecipeError

from .fields import Fields

MOST_LAYERS = 1000
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu"}
_PLAIN = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_WORD = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu2": "relu2"}


@dataclass(frozen=True)
class Family:
    """One Hugging Face architecture."""

    name: str
    """model_type in config.json."""
    architecture: str
    read: Callable[[Fields], dict[str, Any]]
    """config.json -> fields of the decoder's Config."""
    write: Callable[[Config, int], dict[str, Any]]
    """(decoder, max_sequence) -> config.json without vocabulary and token ids."""
    tensors: Mapping[str, str]
    """Our name of a part -> theirs, inside a block; the tensor's last word (weight, bias) is the same."""
    outside: Mapping[str, str] = field(
        default_factory=lambda: {
            "embedding": "model.embed_tokens",
            "norm": "model.norm",
            "output": "lm_head",
        }
    )
    blocks: str = "model.layers"
    """Where the list of blocks is, in tensor names and in the module."""
    transposed: frozenset[str] = frozenset()
    """Their parts whose matrices are stored [inputs, outputs]."""
    sequence: str = "max_position_embeddings"
    """The field that holds max_sequence."""

    def config(self, fields: Fields) -> Config:
        """The decoder a config.json describes. Raises DataError naming the field that cannot be had."""
        data = {k: v for k, v in self.read(fields).items() if v is not None}
        try:
            return validate(Config, data)
        except RecipeError as err:
            raise DataError(
                f"this describes no decoder tilth can build ({err.where}: {err.what})", where=fields.where
            ) from None

    def layout(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Their tensor name -> ours, several where they fuse (rows in that order)."""
        out: dict[str, list[str]] = {}
        for ours in names:
            out.setdefault(self._rename(ours), []).append(ours)
        return out

    def is_transposed(self, theirs: str) -> bool:
        """Whether the tensor is stored [inputs, outputs]."""
        return theirs.endswith(".weight") and any(f".{part}." in theirs for part in self.transposed)

    def _rename(self, ours: str) -> str:
        part, _, leaf = ours.rpartition(".")
        if not part.startswith("blocks."):
            return f"{self.outside[part]}.{leaf}"
        _, index, inner = part.split(".", 2)
        return f"{self.blocks}.{index}.{self.tensors[inner]}.{leaf}"

    def loss(self, config: Config, max_sequence: int) -> str:
        """What this family cannot say of the decoder, in words; "" if it can say all."""
        try:
            written = self.write(config, max_sequence)
            back = self.config(Fields(written, self.name))
        except DataError as err:
            return err.what
        theirs, ours = meaning(back), meaning(config)
        lost = [f"{k} {ours[k]!r} (would become {theirs[k]!r})" for k in ours if not same(ours[k], theirs[k])]
        return ", ".join(lost)


def meaning(config: Config) -> dict[str, Any]:
    """Everything that decides what the model computes, with nothing left to derive; initialisation left out."""
    data = config.model_dump()
    data = {k: v for k, v in data.items() if not k.startswith("init_")}
    data |= {"kv_heads": config.num_kv_heads, "head_width": config.head_width_, "ffn_width": config.ffn_width_}
    data |= {"window": config.windows, "window_pattern": None}
    data["attention_scale"] = config.attention_scale or config.head_width_**-0.5
    data["embedding_scale"] = config.width**0.5 if config.embedding_scale == "sqrt_width" else config.embedding_scale
    scaling = config.rope_scaling
    base = None if scaling is None else scaling.base(config.rope_theta, config.head_width_)
    if base is not None:  # no more than another base
        data |= {"rope_theta": base, "rope_scaling": None}
    elif isinstance(scaling, yarn.Config):
        data["rope_scaling"] |= {"magnitude": scaling.magnitude_}
    return data


def same(a: Any, b: Any) -> bool:
    """Equal, numbers to rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


# ---- rotary positions --------------------------------------------------------------------------------------------


def read_rope(fields: Fields) -> dict[str, Any]:
    """`rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before); the older wins, as there."""
    theta = fields.take("rope_theta", float, 10000.0)
    new, old = fields.take("rope_parameters", dict, {}), fields.take("rope_scaling", dict, {})
    where = "rope_scaling" if old else "rope_parameters"
    rope = {k: v for k, v in (old or new).items() if v is not None}
    if any(isinstance(v, dict) for v in rope.values()):
        fields.refuse(where, "differs between kinds of layers, which tilth's decoder cannot do")
    inner = Fields(rope, f"{fields.where}: {where}")
    theta = inner.take("rope_theta", float, theta)
    outer_partial = fields.take("partial_rotary_factor", float, 1.0)
    if inner.take("partial_rotary_factor", float, outer_partial) != 1.0:
        fields.refuse("partial_rotary_factor", "is not 1, and tilth's decoder turns whole heads")
    kind = inner.take("type", str, "default")
    kind = inner.take("rope_type", str, kind)
    sequence = fields.take("max_position_embeddings", int)
    out: dict[str, Any] = {"use": kind}
    outer_original = fields.take("original_max_position_embeddings", int, None)
    if kind in ("yarn", "llama3"):
        original = inner.take("original_max_position_embeddings", int, sequence)
        out["original_sequence"] = outer_original or original
    if kind == "default":
        scaling = None
    elif kind == "linear":
        scaling = out | {"factor": inner.take("factor", float)}
    elif kind == "yarn":
        factor = inner.take("factor", float, sequence / out["original_sequence"])
        upper, lower = inner.take("mscale", float, 0.0), inner.take("mscale_all_dim", float, 0.0)
        magnitude = None
        if upper and lower:
            magnitude = (0.1 * upper * math.log(factor) + 1) / (0.1 * lower * math.log(factor) + 1)
        scaling = out | {
            "factor": factor,
            "beta_fast": inner.take("beta_fast", float, 32.0) or 32.0,
            "beta_slow": inner.take("beta_slow", float, 1.0) or 1.0,
            "magnitude": inner.take("attention_factor", float, magnitude),
            "whole_pairs": inner.take("truncate", bool, True),
        }
    elif kind == "llama3":
        scaling = out | {
            "factor": inner.take("factor", float),
            "low_frequency_factor": inner.take("low_freq_factor", float),
            "high_frequency_factor": inner.take("high_freq_factor", float),
        }
    else:
        fields.refuse(where, f"has the type {kind!r:.40}; tilth can read default, linear, yarn and llama3")
    inner.finish()
    return {"rope_theta": theta, "rope_scaling": scaling}


def write_rope(c: Config) -> dict[str, Any]:
    """Both spellings, so that readers before and after transformers 5 understand it."""
    theta, scaling = c.rope_theta, c.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        theta = scaling.base(theta, c.head_width_) or theta
    match scaling:
        case linear.Config():
            rope = {"rope_type": "linear", "factor": scaling.factor}
        case yarn.Config():
            rope = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_sequence,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.magnitude_,
                "truncate": scaling.whole_pairs,
            }
        case llama3.Config():
            rope = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_sequence,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
            }
    old = None if rope["rope_type"] == "default" else rope
    return {"rope_theta": theta, "rope_scaling": old, "rope_parameters": rope | {"rope_theta": theta}}


# ---- what the six modern families share --------------------------------------------------------------------------


def read_common(
    fields: Fields, *, kv_heads: int | None = None, eps: float = 1e-6, tied: bool = False
) -> dict[str, Any]:
    """Sizes, norm, feed-forward kind, rotary positions."""
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_width = fields.size("head_dim", None)
    return {
        "layers": fields.size("num_hidden_layers", most=MOST_LAYERS),
        "width": width,
        "heads": heads,
        "kv_heads": fields.take("num_key_value_heads", int, kv_heads, null=None),
        "head_width": None if head_width is not None and head_width * heads == width else head_width,
        "ffn_width": fields.size("intermediate_size"),
        "ffn": fields.choose("hidden_act", _GATED, "silu"),
        "norm_eps": fields.take("rms_norm_eps", float, eps),
        "tied": fields.take("tie_word_embeddings", bool, tied),
        "init_std": fields.take("initializer_range", float, 0.02) or None,
        **read_rope(fields),
    }


def write_common(c: Config, max_sequence: int) -> dict[str, Any]:
    """The counterpart of read_common."""
    return {
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_width_,
        "intermediate_size": c.ffn_width_,
        "hidden_act": _WORD[c.ffn],
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "initializer_range": c.init_std or 0.02,
        "max_position_embeddings": max_sequence,
        "attention_dropout": 0.0,
        "use_cache": True,
        **write_rope(c),
    }


def read_windows(fields: Fields, window: int | None, slides: Callable[[int], bool]) -> dict[str, Any]:
    """`layer_types` if given, else `slides(layer)`; the shortest pattern that says the same."""
    layers = fields.size("num_hidden_layers", most=MOST_LAYERS)
    words = {"sliding_attention": "S", "full_attention": "F"}
    types = fields.take("layer_types", list, None)
    if types is None:
        letters = "".join("S" if window is not None and slides(i) else "F" for i in range(layers))
    elif len(types) != layers or any(t not in words for t in types):
        fields.refuse("layer_types", f"must name sliding_attention or full_attention for each of {layers} layers")
    else:
        letters = "".join(words[t] for t in types)
    if "S" not in letters:
        return {}
    if window is None:
        fields.refuse("sliding_window", "is missing, though layer_types has sliding layers")
    period = next(n for n in range(1, layers + 1) if (letters[:n] * layers)[:layers] == letters)
    return {"window": window, "window_pattern": letters[:period]}


def layer_types(c: Config) -> list[str]:
    """The list that transformers reads."""
    return ["full_attention" if w is None else "sliding_attention" for w in c.windows]


_ATTENTION = {f"attention.{ours}": f"self_attn.{ours[0]}_proj" for ours in ("q", "k", "v", "out")}
_QK_NORM = {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
_FFN = {f"ffn.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
_PRE = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_POST = {"attention_post_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm"}
_SANDWICH = {**_POST, "attention_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm"}


def _bias(on: bool) -> str:
    return "all" if on else "none"


# ---- the families ------------------------------------------------------------------------------------------------


def _read_llama(f: Fields) -> dict[str, Any]:
    own = {
        "attention_bias": _bias(f.take("attention_bias", bool, False)),
        "ffn_bias": f.take("mlp_bias", bool, False),
    }
    return read_common(f) | own


def _write_llama(c: Config, max_sequence: int) -> dict[str, Any]:
    _whole_heads(c, "llama")
    own = {"attention_bias": c.attention_bias == "all", "mlp_bias": c.ffn_bias}
    return write_common(c, max_sequence) | own


def _read_mistral(f: Fields) -> dict[str, Any]:
    window = f.take("sliding_window", int, 4096, null=None)
    f.need("layer_types", list, None, "Mistral's layers are all alike")
    return read_common(f, kv_heads=8) | {"window": window}


def _write_mistral(c: Config, max_sequence: int) -> dict[str, Any]:
    return write_common(c, max_sequence) | {"sliding_window": c.windows[0]}


def _read_qwen_windows(f: Fields) -> dict[str, Any]:
    first, on = f.take("max_window_layers", int, 28), f.take("use_sliding_window", bool, False)
    window = f.take("sliding_window", int, 4096, null=None)
    return read_windows(f, window if on else None, lambda i: i >= first)


def _write_qwen_windows(c: Config) -> dict[str, Any]:
    slides = [w is not None for w in c.windows]
    return {
        "use_sliding_window": any(slides),
        "sliding_window": c.window,
        "max_window_layers": slides.index(True) if any(slides) else c.layers,
        "layer_types": layer_types(c),
    }


def _read_qwen2(f: Fields) -> dict[str, Any]:
    return read_common(f, kv_heads=32) | {"attention_bias": "qkv"} | _read_qwen_windows(f)


def _write_qwen2(c: Config, max_sequence: int) -> dict[str, Any]:
    return write_common(c, max_sequence) | _write_qwen_windows(c)


def _read_qwen3(f: Fields) -> dict[str, Any]:
    bias = _bias(f.take("attention_bias", bool, False))
    common = read_common(f, kv_heads=32)
    common["head_width"] = f.size("head_dim", 128)
    return common | {"qk_norm": "head", "attention_bias": bias} | _read_qwen_windows(f)


def _write_qwen3(c: Config, max_sequence: int) -> dict[str, Any]:
    own = {"attention_bias": c.attention_bias == "all"}
    return write_common(c, max_sequence) | own | _write_qwen_windows(c)


def _scale(f: Fields) -> float:
    scalar = f.take("query_pre_attn_scalar", float, 256.0)
    if not 1e-12 <= scalar <= 1e12:
        f.refuse("query_pre_attn_scalar", f"is {scalar:g}, of which no scale of attention can be made")
    return scalar**-0.5


def _read_gemma2(f: Fields) -> dict[str, Any]:
    f.need("use_bidirectional_attention", bool, False, "tilth's decoder is causal")
    common = read_common(f, kv_heads=4, tied=True)
    f.take("hidden_act", str, None)  # older files have both; hidden_activation decides
    return (
        common
        | {
            "ffn": f.choose("hidden_activation", _GATED, "gelu_pytorch_tanh"),
            "head_width": f.size("head_dim", 256),
            "attention_bias": _bias(f.take("attention_bias", bool, False)),
            "attention_scale": _scale(f),
            "attention_softcap": f.take("attn_logit_softcapping", float, 50.0, null=None),
            "logit_softcap": f.take("final_logit_softcapping", float, 30.0, null=None),
            "norm_gain": "1+w",
            "norm_placement": "sandwich",
            "embedding_scale": "sqrt_width",
        }
        | read_windows(f, f.take("sliding_window", int, 4096, null=None), lambda i: i % 2 == 0)
    )


def _write_gemma2(c: Config, max_sequence: int) -> dict[str, Any]:
    _whole_heads(c, "gemma2")
    scale = c.attention_scale or c.head_width_**-0.5
    act = _WORD[c.ffn]
    return write_common(c, max_sequence) | {
        "hidden_act": act,
        "hidden_activation": act,
        "attention_bias": c.attention_bias == "all",
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": c.attention_softcap,
        "final_logit_softcapping": c.logit_softcap,
        "sliding_window": c.window or max_sequence,  # older readers alternate whatever layer_types says
        "layer_types": layer_types(c),
    }


def _read_olmo2(f: Fields) -> dict[str, Any]:
    own = {
        "attention_bias": _bias(f.take("attention_bias", bool, False)),
        "qk_norm": "full",
        "norm_placement": "post",
    }
    return read_common(f, eps=1e-5) | own


def _write_olmo2(c: Config, max_sequence: int) -> dict[str, Any]:
    return write_common(c, max_sequence) | {"attention_bias": c.attention_bias == "all"}


def _read_gpt2(f: Fields) -> dict[str, Any]:
    f.need("scale_attn_weights", bool, True, "tilth always scales scores")
    f.need("scale_attn_by_inverse_layer_idx", bool, False, "tilth scales all layers alike")
    f.need("add_cross_attention", bool, False, "tilth's decoder has no encoder")
    width = f.size("n_embd", 768)
    f.take("n_positions", int, 1024)
    return {
        "layers": f.size("n_layer", 12, most=MOST_LAYERS),
        "width": width,
        "heads": f.size("n_head", 12),
        "ffn_width": f.size("n_inner", 4 * width),
        "ffn": f.choose("activation_function", _PLAIN, "gelu_new"),
        "ffn_bias": True,
        "attention_bias": "all",
        "norm": "layer",
        "norm_eps": f.take("layer_norm_epsilon", float, 1e-5),
        "position": "learned",
        "tied": f.take("tie_word_embeddings", bool, True),
        "init_std": f.take("initializer_range", float, 0.02) or None,
    }


def _write_gpt2(c: Config, max_sequence: int) -> dict[str, Any]:
    return {
        "n_layer": c.layers,
        "n_embd": c.width,
        "n_head": c.heads,
        "n_inner": c.ffn_width_,
        "n_positions": max_sequence,
        "activation_function": _WORD[c.ffn],
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "initializer_range": c.init_std or 0.02,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "use_cache": True,
    }


def _whole_heads(c: Config, name: str) -> None:
    if c.width % c.heads:
        raise DataError(f"{name} wants a width ({c.width}) that divides among the heads ({c.heads})", where=name)


_GPT2_BLOCK = {
    "attention_norm": "ln_1",
    **{f"attention.{part}": "attn.c_attn" for part in ("q", "k", "v")},
    "attention.out": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("llama", "LlamaForCausalLM", _read_llama, _write_llama, {**_ATTENTION, **_FFN, **_PRE}),
        Family("mistral", "MistralForCausalLM", _read_mistral, _write_mistral, {**_ATTENTION, **_FFN, **_PRE}),
        Family("qwen2", "Qwen2ForCausalLM", _read_qwen2, _write_qwen2, {**_ATTENTION, **_FFN, **_PRE}),
        Family("qwen3", "Qwen3ForCausalLM", _read_qwen3, _write_qwen3, {**_ATTENTION, **_QK_NORM, **_FFN, **_PRE}),
        Family("gemma2", "Gemma2ForCausalLM", _read_gemma2, _write_gemma2, {**_ATTENTION, **_FFN, **_SANDWICH}),
        Family("olmo2", "Olmo2ForCausalLM", _read_olmo2, _write_olmo2, {**_ATTENTION, **_QK_NORM, **_FFN, **_POST}),
        Family(
            "gpt2",
            "GPT2LMHeadModel",
            _read_gpt2,
            _write_gpt2,
            _GPT2_BLOCK,
            outside={
                "embedding": "transformer.wte",
                "position": "transformer.wpe",
                "norm": "transformer.ln_f",
                "output": "lm_head",
            },
            blocks="transformer.h",
            transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
            sequence="n_positions",
        ),
    )
}
"""By model_type, in the order in which `auto` tries them."""
