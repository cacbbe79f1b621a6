"""Shared small things: a corpus one can learn, and the recipe that learns it in seconds."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from .warm import Warm

# A loaded machine is no failure. A change lands by what it does, not by the dice: CI tries the same examples each time.
settings.register_profile("tilth", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tilth")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """`tilth` as a command, without three seconds of imports each time."""
    with Warm(tmp_path_factory.mktemp("warm")) as interpreter:
        yield interpreter


WORDS = (
    "alpha beta gamma delta river stone garden window letter morning evening winter summer paper silver copper "
    "teacher farmer sailor doctor painter carries follows answers opens closes finds keeps brings quietly slowly "
    "never always often under over beside behind between small large green yellow old young wooden bright"
).split()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents of word salad with some grammar, about 100 kB, as one JSONL and a folder of text files."""
    rng = random.Random(5)
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "notes").mkdir()
    lines = []
    for i in range(120):
        sentences = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + "." for _ in range(rng.randint(6, 18))]
        text = f"Note {i}. " + " ".join(s.capitalize() for s in sentences)
        if i % 3:
            lines.append(json.dumps({"text": text, "id": f"note-{i}"}))
        else:
            (folder / "notes" / f"{i:03d}.txt").write_text(text + "\n")
    (folder / "lines.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains a model of about 60 thousand parameters for 12 steps on `corpus`."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        f"""
name: tiny
corpus:
  sources:
    lines: {{use: files, path: {corpus}/lines.jsonl}}
    notes: {{use: files, path: {corpus}/notes}}
  holdout: {{fraction: 0.1}}
tokenizer: {{use: bpe, vocab_size: 400}}
model: {{use: decoder, layers: 2, width: 32, heads: 2, ffn_width: 64}}
precision: fp32
batch: {{tokens: 256, sequence: 32}}
optim: {{use: adamw, lr: 0.01}}
budget: {{steps: 12}}
checkpoint: {{every: 4}}
eval: {{every: 6, samples: ["Note 1. "], sample_tokens: 8, tasks: [{{use: bits_per_byte}}]}}
"""
    )
    return path
