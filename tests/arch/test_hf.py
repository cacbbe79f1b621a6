"""Seven architectures in and out, against transformers; and what must not be read or written in silence."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilth.arch import hf
from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.hf import compare
from tilth.arch.hf.families import FAMILIES, meaning
from tilth.arch.hf.reading import read_config
from tilth.core.errors import DataError, ProofFailed
from tilth.data.tokens.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

V, S = 97, 64
SIZES = {
    "vocab_size": V,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": S,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GPT2 = {
    "vocab_size": V,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": S,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 5000.0}
YARN_ODD = YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 50000.0,
}
LINEAR = {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SIZES),
    "llama, multi-query, tied, biases": (
        "llama",
        SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, yarn": ("llama", SIZES | {"rope_parameters": YARN}),
    "llama, yarn with every field": ("llama", SIZES | {"rope_parameters": YARN_ODD}),
    "llama, llama3, wide heads": ("llama", SIZES | {"rope_parameters": LLAMA3, "head_dim": 16}),
    "llama, linear": ("llama", SIZES | {"rope_parameters": LINEAR}),
    "llama, geglu": ("llama", SIZES | {"hidden_act": "gelu_pytorch_tanh"}),
    "mistral": ("mistral", SIZES | {"sliding_window": 9}),
    "qwen2, tied": ("qwen2", SIZES | {"tie_word_embeddings": True}),
    "qwen2, windows above layer 1": (
        "qwen2",
        SIZES | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3, wide heads": ("qwen3", SIZES | {"head_dim": 20}),
    "qwen3, mixed windows": (
        "qwen3",
        SIZES | {"head_dim": 12, "use_sliding_window": True, "sliding_window": 7, "layer_types": MIXED},
    ),
    "gemma2": ("gemma2", SIZES | {"head_dim": 10, "query_pre_attn_scalar": 13, "sliding_window": 8}),
    "gemma2, untied, no soft-caps, all full": (
        "gemma2",
        SIZES
        | {
            "head_dim": 12,
            "tie_word_embeddings": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention"] * 3,
        },
    ),
    "olmo2": ("olmo2", SIZES),
    "olmo2, biases, yarn": ("olmo2", SIZES | {"attention_bias": True, "rope_parameters": YARN}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied, erf": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 64},
    ),
}


def reference(name: str, fields: dict[str, Any]) -> Any:
    """A random transformers model none of whose weights is trivial (norm gains not 1, biases not 0)."""
    config = transformers.AutoConfig.for_model(name, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=random))
    return model


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


IDS = torch.randint(0, V, (2, S), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.Tensor]]:
    """Each case written by transformers, with its logits."""
    out = {}
    for case, (name, fields) in CASES.items():
        path = tmp_path_factory.mktemp("hf")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = reference(name, fields)
            model.save_pretrained(path)
        out[case] = path, logits(model, IDS)
    return out


def decoder(**knobs: Any) -> Decoder:
    config = Config.model_validate({"layers": 3, "width": 32, "heads": 4, "init_std": 0.2, **knobs})
    model = config.build(V, S)
    model.init_weights(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


# ---- in and out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_import_and_export_keep_the_logits(case: str, checkpoints: dict, tmp_path: Path) -> None:
    path, expected = checkpoints[case]
    config, model, tokenizer, dtype = hf.import_hf(path)
    assert (tokenizer, dtype) == (path, "float32") and expected.abs().max() > 1
    assert (logits(model, IDS) - expected).abs().max() < 1e-4
    done = hf.export_hf(tmp_path / "out", config, model, None)
    assert done.format == CASES[case][0] and done.parity.logit_difference < 1e-4
    assert done.parity.reader.startswith("transformers ") and len(done.parity.stages) == 3 + 3
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert torch.equal(logits(again, IDS), expected)  # the same weights in the same places
    assert load_file(path / "model.safetensors").keys() == load_file(tmp_path / "out/model.safetensors").keys()


@pytest.mark.parametrize("case", [c for c in CASES if "rope_parameters" in CASES[c][1]] + ["qwen3, mixed windows"])
def test_config_files_from_before_transformers_5(case: str, checkpoints: dict, tmp_path: Path) -> None:
    """rope_theta and rope_scaling (type instead of rope_type) in place of rope_parameters."""
    path, expected = checkpoints[case]
    data = json.loads((path / "config.json").read_text())
    rope = data.pop("rope_parameters")
    data["rope_theta"] = rope.pop("rope_theta")
    data["torch_dtype"] = data.pop("dtype")
    kind = rope.pop("rope_type")
    data["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    (tmp_path / "config.json").write_text(json.dumps(data))
    (tmp_path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    assert (logits(hf.import_hf(tmp_path).model, IDS) - expected).abs().max() < 1e-4


def test_the_export_says_rope_in_both_spellings(tmp_path: Path) -> None:
    model = decoder(rope_theta=700.0, rope_scaling={"use": "linear", "factor": 3.0})
    hf.export_hf(tmp_path / "out", model.config, model, None)
    data = json.loads((tmp_path / "out/config.json").read_text())
    assert data["rope_theta"] == data["rope_parameters"]["rope_theta"] == 700.0
    assert data["rope_scaling"]["rope_type"] == data["rope_parameters"]["rope_type"] == "linear"
    old = {k: v for k, v in data.items() if k != "rope_parameters"}
    (tmp_path / "out/config.json").write_text(json.dumps(old))
    hf.parity(tmp_path / "out", model)


def test_sharded_checkpoints(checkpoints: dict, tmp_path: Path) -> None:
    path, expected = checkpoints["llama"]
    transformers.AutoModelForCausalLM.from_pretrained(path).save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    config, model, *_ = hf.import_hf(tmp_path)
    assert (logits(model, IDS) - expected).abs().max() < 1e-4
    hf.export_hf(tmp_path / "out", config, model, None, max_shard_bytes=20_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(files) > 5 and set(index["weight_map"].values()) == {f.name for f in files}
    sizes = [sum(t.nbytes for t in load_file(f).values()) for f in files]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert all(s <= 20_000 or len(load_file(f)) == 1 for s, f in zip(sizes, files, strict=True))


def test_a_directory_laid_out_as_the_hubs_cache_is_read(checkpoints: dict, tmp_path: Path) -> None:
    """snapshots/<revision>/ holds links to ../../blobs, whose names are hashes."""
    path, expected = checkpoints["llama"]
    transformers.AutoModelForCausalLM.from_pretrained(path).save_pretrained(tmp_path / "made", max_shard_size="30KB")
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for i, file in enumerate(sorted((tmp_path / "made").iterdir())):
        file.rename(tmp_path / "blobs" / f"b{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/b{i}")
    assert (logits(hf.import_hf(snapshot).model, IDS) - expected).abs().max() < 1e-4


def test_bfloat16_export_is_compared_as_rounded(tmp_path: Path) -> None:
    model = decoder(kv_heads=2)
    done = hf.export_hf(tmp_path / "out", model.config, model, None, dtype="bfloat16")
    assert done.parity.logit_difference < 1e-4
    stored = load_file(tmp_path / "out/model.safetensors")
    assert all(t.dtype == torch.bfloat16 for t in stored.values())
    back = hf.import_hf(tmp_path / "out").model
    assert 1e-3 < (logits(back, IDS) - logits(model, IDS)).abs().max() < 0.5
    assert all(p.dtype == torch.float32 for p in back.parameters())


def test_base_model_checkpoints_and_old_buffers(checkpoints: dict, tmp_path: Path) -> None:
    """The released gpt2 has no `transformer.` before its names and holds its causal masks."""
    path, expected = checkpoints["gpt2"]
    tensors = load_file(path / "model.safetensors")
    bare = {n.removeprefix("transformer."): t for n, t in tensors.items()}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, S, S) for i in range(3)}
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((path / "config.json").read_bytes())
    assert (logits(hf.import_hf(tmp_path).model, IDS) - expected).abs().max() < 1e-4


# ---- which architecture ------------------------------------------------------------------------------------------

GPT2_KNOBS = {"position": "learned", "norm": "layer", "attention_bias": "all", "ffn": "gelu_tanh", "ffn_bias": True}
GEMMA2_KNOBS = {
    "norm_placement": "sandwich",
    "norm_gain": "1+w",
    "embedding_scale": "sqrt_width",
    "ffn": "geglu",
    "tied": True,
}
PICKED = [
    ({}, "llama"),
    ({"ffn": "geglu", "kv_heads": 1}, "llama"),
    ({"rope_scaling": {"use": "ntk", "factor": 3.0}}, "llama"),
    ({"attention_scale": 8**-0.5, "embedding_scale": 1.0}, "llama"),
    ({"window": 5}, "mistral"),
    ({"attention_bias": "qkv"}, "qwen2"),
    ({"attention_bias": "qkv", "window": 5, "window_pattern": "FS"}, "qwen2"),
    ({"qk_norm": "head", "window": 5, "window_pattern": "SSF"}, "qwen3"),
    ({"qk_norm": "full", "norm_placement": "post", "head_width": 12}, "olmo2"),
    (GEMMA2_KNOBS, "gemma2"),
    (GEMMA2_KNOBS | {"window": 6, "window_pattern": "SF", "attention_softcap": 3.0, "logit_softcap": 2.0}, "gemma2"),
    (GEMMA2_KNOBS | {"attention_scale": 5**-0.5, "embedding_scale": 32**0.5}, "gemma2"),
    (GPT2_KNOBS, "gpt2"),
    (GPT2_KNOBS | {"ffn": "gelu", "tied": True}, "gpt2"),
]


@pytest.mark.parametrize(("knobs", "family"), PICKED, ids=str)
def test_auto_picks_the_architecture_with_these_parts(knobs: dict, family: str, tmp_path: Path) -> None:
    model = decoder(**knobs)
    done = hf.export_hf(tmp_path / "out", model.config, model, None)
    assert done.format == family
    assert (logits(hf.import_hf(tmp_path / "out").model, IDS) - logits(model, IDS)).abs().max() < 1e-5


NOWHERE = [
    ({"ffn": "relu2"}, "relu2"),
    ({"logit_softcap": 3.0}, "logit_softcap 3.0"),
    ({"position": "none"}, "position 'none'"),
    ({"qk_norm": "head", "norm_placement": "post"}, "qwen3 comes nearest but for norm_placement 'post'"),
    ({"window": 5, "window_pattern": "SF"}, "window"),
    ({"attention_scale": 0.3}, "attention_scale 0.3"),
    ({"embedding_scale": 2.0}, "embedding_scale 2.0"),
    ({"norm_gain": "1+w"}, "norm_gain '1+w'"),
]


@pytest.mark.parametrize(("knobs", "says"), NOWHERE, ids=str)
def test_a_part_no_architecture_has_is_named(knobs: dict, says: str, tmp_path: Path) -> None:
    model = decoder(**knobs)
    with pytest.raises(DataError, match="no Hugging Face architecture") as caught:
        hf.export_hf(tmp_path / "out", model.config, model, None)
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_named_architecture_says_what_it_lacks(tmp_path: Path) -> None:
    model = decoder(window=5)
    with pytest.raises(DataError, match=r"llama lacks .* window"):
        hf.export_hf(tmp_path / "out", model.config, model, None, format="llama")
    with pytest.raises(DataError, match="no export format 'lama'"):
        hf.export_hf(tmp_path / "out", model.config, model, None, format="lama")
    odd = decoder(heads=5, head_width=8, width=32)
    assert hf.export_hf(tmp_path / "odd", odd.config, odd, None).format == "mistral"  # llama wants width % heads == 0


def test_no_knob_is_left_out_of_the_comparison() -> None:
    kept = {k for k in Config.model_fields if not k.startswith("init_")}
    assert set(meaning(decoder().config)) == kept | {"window_pattern"}


# ---- parity ------------------------------------------------------------------------------------------------------


def _spoil(path: Path, name: str, change: float = 1.3) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors[name] = tensors[name] * change
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.self_attn.k_proj.weight", "block 0"),
        ("model.layers.1.mlp.down_proj.weight", "block 1"),
        ("model.layers.2.post_attention_layernorm.weight", "block 2"),
        ("model.norm.weight", "the final norm"),
        ("lm_head.weight", "the head"),
    ],
)
@pytest.mark.parametrize("with_transformers", [True, False])
def test_parity_names_the_spoiled_stage(
    tensor: str, stage: str, with_transformers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(kv_heads=2)
    hf.export_hf(tmp_path / "out", model.config, model, None)
    if not with_transformers:
        monkeypatch.setattr(compare, "has_transformers", lambda: False)
    assert ("importer" in hf.parity(tmp_path / "out", model).reader) != with_transformers
    _spoil(tmp_path / "out", tensor)
    with pytest.raises(ProofFailed, match=f"is {stage}: by"):
        hf.parity(tmp_path / "out", model)


def test_parity_on_given_tokens_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = decoder().to_compute(torch.bfloat16)
    hf.export_hf(tmp_path / "out", model.config, model, None)
    result = hf.parity(tmp_path / "out", model, IDS[:1, :5])
    assert result.tokens == 5 and result.to_dict()["agrees"] is True
    assert model.compute_dtype == torch.bfloat16 and not model.blocks[0]._forward_hooks


def test_a_failed_proof_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tilth.arch.hf.writing as writing

    model = decoder()
    hf.export_hf(tmp_path / "out", model.config, model, None)
    before = (tmp_path / "out/model.safetensors").read_bytes()
    right = writing.theirs
    monkeypatch.setattr(
        writing, "theirs", lambda *a: {n: t * 2 if "layers.1.mlp" in n else t for n, t in right(*a).items()}
    )
    with pytest.raises(ProofFailed, match="block 1"):
        hf.export_hf(tmp_path / "out", model.config, model, None)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    model = decoder()
    hf.export_hf(tmp_path / "out", model.config, model, None)
    hf.export_hf(tmp_path / "out", model.config, model, None, dtype="bfloat16")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    cloned = tmp_path / "out"
    (cloned / ".git").mkdir()
    (cloned / ".git" / "HEAD").write_text("ref")
    with pytest.raises(DataError, match=r"what no export wrote.*\.git/HEAD"):
        hf.export_hf(cloned, model.config, model, None)
    hf.export_hf(cloned, model.config, model, None, force=True)
    assert (cloned / ".git" / "HEAD").read_text() == "ref"
    assert load_file(cloned / "model.safetensors")["model.norm.weight"].dtype == torch.float32


# ---- tokenizer and generation ------------------------------------------------------------------------------------


def tiny_tokenizer(size: int = V, **config: Any) -> Tokenizer:
    """Words w1, w2, …; <sep> (0) begins and ends documents."""
    special = {"id": 0, "content": "<sep>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    words = {"<sep>": 0, **{f"w{i}": i for i in range(1, size)}}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w1"}
    parts = {"added_tokens": [special | flags], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    return Tokenizer(json.dumps(parts), {"bos_token": "<sep>", "eos_token": "<sep>", **config})


def test_tokenizer_and_generation_config_load_in_transformers(tmp_path: Path) -> None:
    model = decoder()
    hf.export_hf(
        tmp_path / "out",
        model.config,
        model,
        tiny_tokenizer(auto_map={"AutoTokenizer": "evil.py"}),
        generation={"temperature": 0.7},
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w5 w7")["input_ids"] == [5, 7] and tokenizer.eos_token_id == 0
    assert tokenizer.model_max_length == S
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (0, 0)
    assert loaded.generation_config.eos_token_id == 0 and loaded.generation_config.temperature == 0.7
    assert hf.generation_config(tmp_path / "out")["temperature"] == 0.7
    assert "auto_map" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    text = loaded.generate(torch.tensor([[5, 7]]), max_new_tokens=6, do_sample=False)
    with torch.no_grad():
        ours = torch.tensor([[5, 7]])
        while ours.shape[1] < text.shape[1]:
            ours = torch.cat((ours, model(ours)[:, -1:].argmax(-1)), 1)
    assert torch.equal(text, ours)


def test_a_tokenizer_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    big = tiny_tokenizer(V + 1)
    model = decoder()
    with pytest.raises(DataError, match="98 tokens and the model rows for 97"):
        hf.export_hf(tmp_path / "out", model.config, model, big)
    assert hf.generation_config(tmp_path) == {}


# ---- what is refused on the way in -------------------------------------------------------------------------------

FIELDS = [
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "type 'dynamic'"),
    ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_scaling has the type 'longrope'"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor is missing"),
    ("llama", {"rope_parameters": {**LINEAR, "low_freq_factor": 2.0}}, "low_freq_factor"),
    ("llama", {"rope_parameters": {**LINEAR, "factor": 0.5}}, "rope_scaling"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
    ("gemma2", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differs between kinds of layers"),
    ("llama", {"hidden_act": "relu"}, "hidden_act is 'relu'; tilth can read silu"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config .* is not one tilth knows"),
    ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier .* import with `--ignore embedding_multiplier`"),
    ("llama", {"hidden_size": "48"}, "hidden_size must be a whole number, not '48'"),
    ("llama", {"hidden_size": True}, "hidden_size must be a whole number, not True"),
    ("llama", {"hidden_size": None}, "hidden_size is missing"),
    ("llama", {"num_key_value_heads": 3}, "kv_heads: 4 query heads cannot share 3"),
    ("llama", {"vocab_size": 0}, "vocab_size is 0, not from 1"),
    ("llama", {"vocab_size": 10**7}, "vocab_size is 10,000,000, and no side of a tensor is longer than 200"),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not from 1 to 1,000"),
    ("qwen3", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not from 1 to 1,000"),
    ("gpt2", {"n_layer": 10**9}, "n_layer is 1000000000, not from 1 to 1,000"),
    ("llama", {"head_dim": 10**9}, "head_dim is 1000000000, not from 1"),
    ("llama", {"head_dim": 10**6}, "head_width is 1,000,000, and no side of a tensor is longer than 200"),
    ("llama", {"hidden_size": 10**6}, "width is 1,000,000, and no side"),
    ("llama", {"hidden_size": 10**12 + 1}, "hidden_size is 1000000000001, not from 1"),
    ("gemma2", {"intermediate_size": 10**7, "head_dim": 12}, "ffn_width is 10,000,000, and no side"),
    ("llama", {"max_position_embeddings": 10**12}, "max_position_embeddings is 1000000000000, not from 1"),
    ("llama", {"model_type": "mixtral"}, "'mixtral' is not one tilth can read. It reads llama, mistral"),
    ("mistral", {"layer_types": MIXED}, "layer_types is .* all alike"),
    ("qwen3", {"layer_types": ["full_attention"]}, "layer_types must name"),
    ("qwen3", {"layer_types": MIXED}, "sliding_window is missing"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, and tilth's decoder is"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
]


@pytest.mark.parametrize(("name", "change", "says"), FIELDS, ids=[f"{n} {c}"[:60] for n, c, _ in FIELDS])
def test_fields_not_understood_are_refused(name: str, change: dict, says: str, tmp_path: Path) -> None:
    fields = transformers.AutoConfig.for_model(name, **(GPT2 if name == "gpt2" else SIZES)).to_dict()
    if "rope_scaling" in change:
        fields.pop("rope_parameters")
    (tmp_path / "config.json").write_text(json.dumps({**fields, **change}))
    save_file({name: torch.zeros(200) for name in "xyz"}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=says) as caught:
        hf.import_hf(tmp_path)
    assert str(tmp_path) in caught.value.where


def test_a_field_can_be_ignored_on_demand(tmp_path: Path) -> None:
    fields = transformers.AutoConfig.for_model("llama", **SIZES).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**fields, "unsloth_fixed": True}))
    with pytest.raises(DataError, match="unsloth_fixed"):
        read_config(tmp_path)
    assert read_config(tmp_path, ignore=["unsloth_fixed"])[0].name == "llama"


@pytest.mark.parametrize("name", FAMILIES)
def test_absent_fields_mean_what_they_mean_in_transformers(name: str, tmp_path: Path) -> None:
    """config.json may leave out whatever equals the class's default; the decoder is then the same."""
    full = transformers.AutoConfig.for_model(name).to_dict()
    needed = {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"}
    needed |= {"num_attention_heads", "max_position_embeddings"}
    rest = {"n_positions": 1024} if name == "gpt2" else {}
    read = []
    for data in (full, {k: v for k, v in full.items() if k in needed}):
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 50257, **rest, **data}))
        read.append(meaning(read_config(tmp_path)[1]))
    assert read[0] == read[1]


def _weights(change: Any) -> Any:
    def spoil(path: Path) -> None:
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors")

    return spoil


def _as_pickle(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _index(**names: str) -> Any:
    def spoil(path: Path) -> None:
        (path / "model.safetensors").rename(path / "part.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return spoil


WEIGHTS = {
    "pickle": (_as_pickle, r"a pickle \(pytorch_model.bin\)"),
    "none": (lambda p: (p / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "truncated": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-9]),
        "not a whole safetensors file",
    ),
    "missing": (_weights(lambda t: t.pop("model.norm.weight")), "model.norm.weight is missing"),
    "extra": (_weights(lambda t: t.update(score=torch.zeros(1))), "model.score is not expected"),
    "shape": (_weights(lambda t: t.update({"model.norm.weight": torch.zeros(3)})), r"shape \[3\], read as \[48\]"),
    "NaN": (_weights(lambda t: t["model.norm.weight"].fill_(float("nan"))), "NaN"),
    "quantised": (
        _weights(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)})),
        "quantised weights are not read",
    ),
    "shard outside": (_index(x="../../etc/passwd"), "leads out of its directory"),
    "shard elsewhere": (_index(x="/etc/passwd"), "leads out of its directory"),
    "shard absent": (_index(x="gone.safetensors"), "gone.safetensors: this file is missing"),
    "tensor absent": (_index(x="part.safetensors"), "no shard holds x"),
    "index damaged": (lambda p: _index()(p) or (p / "model.safetensors.index.json").write_text("{"), "damaged"),
    "no config": (lambda p: (p / "config.json").unlink(), "config.json: this file is missing"),
    "config damaged": (lambda p: (p / "config.json").write_text("[1]"), "should be a valid dictionary"),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_damaged_directories_are_refused(fault: str, checkpoints: dict, tmp_path: Path) -> None:
    path, _ = checkpoints["llama"]
    for file in path.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil, says = WEIGHTS[fault]
    spoil(tmp_path)
    with pytest.raises(DataError, match=says):
        hf.import_hf(tmp_path)


def test_a_tied_head_that_differs_is_refused_and_one_that_agrees_is_not(checkpoints: dict, tmp_path: Path) -> None:
    path, expected = checkpoints["qwen2, tied"]
    (tmp_path / "config.json").write_bytes((path / "config.json").read_bytes())
    tensors = load_file(path / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert (logits(hf.import_hf(tmp_path).model, IDS) - expected).abs().max() < 1e-4
    _spoil(tmp_path, "lm_head.weight")
    with pytest.raises(DataError, match=r"lm_head\.weight differs"):
        hf.import_hf(tmp_path)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e300])
def test_a_scale_of_attention_that_cannot_be_is_refused(value: float) -> None:
    from tilth.arch.hf.families import _scale
    from tilth.arch.hf.fields import Fields

    with pytest.raises(DataError, match="query_pre_attn_scalar"):
        _scale(Fields({"query_pre_attn_scalar": value}, "config.json"))
