"""An export's tokenizer, as its readers see it: the ids of training, the begin token, every end, what lies beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from tilth import job
from tilth.arch import hf
from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.hf import tokens
from tilth.core.errors import DataError, ProofFailed
from tilth.core.sample_texts import sample_texts
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval.speaker import Speaker

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

TEXT = [
    Path(__file__).read_text(encoding="utf-8"),
    "In 2001 there were 118 boats. In 1984 there were 129 boats.\n" * 50,
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]


def tokenizer(nfc: bool = False, digits: str = r"\p{N}{1,3}", **config: Any) -> Tokenizer:
    """Byte-level BPE of 400 tokens, of Qwen's kind but for how it treats digits and composed letters."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC() if nfc else None
    expression = tokens._QWEN2.replace(r"\p{N}|", f"{digits}|", 1)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXT, trainer)
    names = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[0], "add_bos_token": True}
    return Tokenizer(backend.to_str(), {**names, "split_special_tokens": True, **config})


def decoder(rows: int = 400, **knobs: Any) -> Decoder:
    model = Config.model_validate({"layers": 2, "width": 32, "heads": 4, "init_std": 0.2, **knobs}).build(rows, 64)
    model.init_weights(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": 9},
    "qwen3": {"qk_norm": "head"},
    "gemma2": {
        "norm_placement": "sandwich",
        "norm_gain": "1+w",
        "embedding_scale": "sqrt_width",
        "ffn": "geglu",
        "tied": True,
    },
    "olmo2": {"qk_norm": "full", "norm_placement": "post"},
    "gpt2": {"position": "learned", "norm": "layer", "attention_bias": "all", "ffn": "gelu_tanh", "ffn_bias": True},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parse", [False, True])
def test_auto_tokenizer_gives_the_ids_of_training(family: str, parse: bool, tmp_path: Path) -> None:
    ours, model = tokenizer(split_special_tokens=not parse), decoder(**FAMILIES[family])
    done = hf.export_hf(tmp_path / "out", model.config, model, ours)
    assert done.format == family and str(done.tokens).endswith(
        f"AutoTokenizer (transformers {transformers.__version__})"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ["In 2001 there were 118 boats", "e\u0301é  x\n", "a<|im_start|>b", "٣٤٥"]:
        assert theirs(text)["input_ids"] == [0, *ours.encode(text)]
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert (1 in ours.encode("a<|im_start|>b")) == parse


def test_a_family_whose_tokenizer_is_built_anew_is_left_for_an_equal_one(tmp_path: Path) -> None:
    """A bias on queries, keys and values is qwen2's, whose AutoTokenizer splits digits; llama with a zero bias has it
    too."""
    model, ours = decoder(attention_bias="qkv"), tokenizer()
    done = hf.export_hf(tmp_path / "out", model.config, model, ours)
    assert done.format == "llama" and done.parity.logit_difference < 1e-4
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("2001")["input_ids"] == [
        0,
        *ours.encode("2001"),
    ]
    with pytest.raises(DataError, match=r"qwen2 .* token ids: AutoTokenizer composes the letters of every text"):
        hf.export_hf(tmp_path / "no", model.config, model, ours, format="qwen2")
    with pytest.raises(DataError, match=r"token ids: AutoTokenizer cuts every text .* digits one by one"):
        hf.export_hf(tmp_path / "no", model.config, model, tokenizer(nfc=True), format="qwen2")
    slides = decoder(attention_bias="qkv", window=5, window_pattern="FS")
    with pytest.raises(DataError, match="qwen2 comes nearest but for token ids"):
        hf.export_hf(tmp_path / "no", slides.config, slides, ours)
    assert not (tmp_path / "no").exists()


def test_qwens_own_tokenizer_stays_with_qwen2(tmp_path: Path) -> None:
    model, own = decoder(attention_bias="qkv"), tokenizer(nfc=True, digits=r"\p{N}")
    done = hf.export_hf(tmp_path / "out", model.config, model, own)
    assert done.format == "qwen2" and done.tokens is not None and done.tokens.texts > 100
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "Qwen2Tokenizer" and theirs("2001")["input_ids"] == [0, *own.encode("2001")]


def test_a_reader_with_other_ids_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof itself, where nothing is known of the family beforehand."""
    monkeypatch.setattr("tilth.arch.hf.writing.rebuilt", lambda family, parsed: "")
    model = decoder(attention_bias="qkv")
    with pytest.raises(ProofFailed, match=r"AutoTokenizer .* gives the text 'In 2001 there were 118 boats"):
        hf.export_hf(tmp_path / "out", model.config, model, tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_without_transformers_the_proof_says_what_it_did_not_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder()
    monkeypatch.setattr(tokens, "has_transformers", lambda: False)
    done = hf.export_hf(tmp_path / "out", model.config, model, tokenizer())
    assert "transformers is not installed; its AutoTokenizer may differ" in str(done)
    broken = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    broken["post_processor"] = None
    (tmp_path / "out" / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(ProofFailed, match="other ids"):
        tokens.token_parity(tmp_path / "out", tokenizer())


def test_sample_texts_hold_what_readers_differ_in() -> None:
    texts = sample_texts(["<|im_start|>"])
    assert texts == sample_texts(["<|im_start|>"]) and len(texts) == len(set(texts)) > 100
    joined = "".join(texts)
    for needle in ("2001", "\r\n", "e\u0301", "é", "한", "中", "🙂", "<|im_start|>", "   ", "\x00"):
        assert needle in joined, needle


# ---- in and out again --------------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A chat model as it is released: two end tokens, padding, a template, bfloat16, a foreign tokenizer class."""
    path = tmp_path / "released"
    shape = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(**shape, bos_token_id=0, eos_token_id=[2, 0], pad_token_id=3)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    tokenizer(add_bos_token=False, split_special_tokens=False, eos_token=SPECIALS[2]).save(path)
    about = json.loads((path / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "Qwen2Tokenizer", "auto_map": {"AutoTokenizer": ["evil.X", None]}}
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    (path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
    (path / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "temperature": 0.6}))
    data = json.loads((path / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (path / "tokenizer.json").write_text(json.dumps(data))
    return path


def test_everything_beside_the_weights_goes_in_and_out(released: Path, tmp_path: Path) -> None:
    job.import_hf(released, tmp_path / "run")
    speaker = job.load(tmp_path / "run")
    assert speaker.ends == {2, 0} and speaker.dtype == "bfloat16" and not speaker.tokenizer.begins
    speaker.export(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (about["dtype"], about["eos_token_id"], about["pad_token_id"]) == ("bfloat16", [2, 0], 3)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"], generation["temperature"]) == ([2, 0], 3, 0.6)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (theirs.eos_token, theirs.pad_token, theirs.bos_token) == ("<|im_end|>", "<|pad|>", "<|endoftext|>")
    shown = theirs.apply_chat_template([{"role": "user", "content": "2001 e\u0301"}], tokenize=True)
    assert list(shown["input_ids"] if not isinstance(shown, list) else shown) == [
        1,
        *speaker.tokenizer.encode("2001 e\u0301"),
        2,
    ]
    assert "evil" not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.json"))
    assert len(theirs("2001 boats and more of them")["input_ids"]) > 4
    exact = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    first = transformers.AutoModelForCausalLM.from_pretrained(released)
    assert exact.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(exact.parameters(), first.parameters(), strict=True))
    speaker.export(tmp_path / "wide", dtype="float32")
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    with pytest.raises(DataError, match="not written as 'int8'"):
        speaker.export(tmp_path / "int", dtype="int8")


def test_a_model_lies_on_the_device_at_hand(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.core.device.at_hand", lambda: torch.device("meta"))
    model = job.load(released).model
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.parametrize("end", [0, 2])
def test_every_end_token_ends_a_reply(released: Path, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = job.load(released)
    word = speaker.tokenizer.encode("boats")[0]
    order = [end, word, word]
    monkeypatch.setattr(
        speaker.model, "logits", lambda hidden: torch.eye(400)[order.pop(0)].expand(len(hidden), 400).clone()
    )
    assert speaker.generate(["a"], 3, temperature=0) == [""] and order == [word, word]
    order.insert(0, end)
    speaker.ends = frozenset({0, 2} - {end})
    assert speaker.generate(["a"], 3, temperature=0) == [speaker.tokenizer.decode([word, word])]


def scores(speaker: Speaker, path: Path) -> list[tuple[float, float]]:
    """(ours, lm-eval's `hf`) of the same pairs of context and continuation."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    pairs = [("In 2001 there were", " 118 boats"), ("", "In 1984"), ("a b ", "c"), ("def f(x):", " return x")]
    theirs = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1)
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = theirs.loglikelihood(asked, disable_tqdm=True)
    return [(ours.nats, other[0]) for ours, other in zip(speaker.loglik(pairs), found, strict=True)]


@pytest.mark.parametrize("begins", [True, False])
def test_scores_are_those_of_lm_evals_hf_model_on_the_export(begins: bool, tmp_path: Path) -> None:
    """Whether or not texts begin with the begin token: it goes along as a post-processor."""
    speaker = Speaker(decoder(), tokenizer(add_bos_token=begins))
    speaker.export(tmp_path / "out")
    for ours, theirs in scores(speaker, tmp_path / "out"):
        assert ours == pytest.approx(theirs, rel=1e-4)
    again = job.load(tmp_path / "out")
    assert again.tokenizer.begins == begins
