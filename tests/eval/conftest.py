"""A tiny tokenizer and random decoders, made here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from tilth.arch.decoder import Config
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval.speaker import Speaker

TEXT = (Path(__file__).parents[2] / "tilth" / "core" / "recipe.py").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only get in each other's way on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 400 tokens whose one separator begins and ends documents."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|sep|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    names = {"bos_token": "<|sep|>", "eos_token": "<|sep|>", "add_bos_token": True, "split_special_tokens": True}
    return Tokenizer(backend.to_str(), names)


@pytest.fixture(scope="session")
def make_speaker(tokenizer: Tokenizer):
    """Speakers over random decoders; `std` is large enough for logits that are far from even."""

    def make(sequence: int = 32, vocab_size: int | None = None, seed: int = 0, **kwargs: Any) -> Speaker:
        own = {k: kwargs.pop(k) for k in ("batch_tokens", "stride") if k in kwargs}
        config = Config(**{"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "init_std": 0.3, **kwargs})
        model = config.build(vocab_size or tokenizer.vocab_size, sequence)
        model.init_weights(seed)
        return Speaker(model, tokenizer, **own)

    return make
