"""The speaker against one plain forward pass per prefix, without batches, padding, windows or cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval.sampling import Sampling
from tilth.eval.speaker import Speaker, windows

TEXTS = [
    "def load(path):\n    return read(path)\n",
    "x",
    "",
    "Größe: 3 €\n",
    "The origin of each value is written into the run directory. ",
    "for i in range(10):\n    print(i, i ** 2)\n" * 3,
]


def plain_nats(speaker: Speaker, ids: list[int], first: int) -> tuple[float, bool]:
    """log p of ids[first:], token by token, each with the context `windows` promises at stride s."""
    size, stride, total, greedy = speaker.max_sequence, speaker.stride, 0.0, True
    for t in range(first, len(ids)):
        stop = next(w.stop for w in windows(len(ids), first, size, stride) if w.first <= t < w.stop)
        context = ids[max(0, stop - 1 - size) : t]
        logp = speaker.model(torch.tensor([context]))[0, -1].double().log_softmax(-1)
        total += logp[ids[t]].item()
        greedy &= logp.argmax().item() == ids[t]
    return total, greedy


def plain_reply(speaker: Speaker, prompt: str, max_tokens: int, sampling: Sampling, number: int) -> str:
    """A reply without cache: the whole context again for each token, half of it forgotten when it is full."""
    ids = [speaker.tokenizer.bos_id, *speaker.tokenizer.encode(prompt)]
    start, begin = 0, len(ids)
    for step in range(max_tokens):
        if len(ids) - start > speaker.max_sequence:
            start = len(ids) - speaker.max_sequence // 2
        logits = speaker.model(torch.tensor([ids[start:]]))[:, -1, : speaker.tokenizer.vocab_size]
        token = sampling.choose(logits, [torch.tensor(ids)], [number], step).item()
        if token == speaker.tokenizer.eos_id:
            break
        ids.append(token)
    return speaker.tokenizer.decode(ids[begin:])


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_windows_score_each_token_once_with_context(length: int, size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    first = data.draw(st.integers(1, length))
    found = windows(length, first, size, stride)
    assert [t for w in found for t in range(w.first, w.stop)] == list(range(first, length))
    for w in found:
        assert w.start < w.first
        assert w.stop - 1 - w.start <= size
        assert w.first - w.start >= min(w.first, size + 1 - stride)


@torch.no_grad()
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"logit_softcap": 5.0, "attention_softcap": 10.0, "tied": True},
        {"position": "learned", "norm": "layer", "ffn": "gelu", "ffn_bias": True},
        {"window": 6, "window_pattern": "SF", "qk_norm": "head"},
    ],
)
def test_rolling_is_the_plain_sum(make_speaker, knobs: dict) -> None:
    speaker = make_speaker(**knobs)
    want = [plain_nats(speaker, ids.tolist(), 1)[0] for ids in speaker.documents(TEXTS)]
    assert speaker.loglik_rolling(TEXTS) == pytest.approx(want, rel=1e-5)
    assert want[2] == 0.0


@pytest.mark.parametrize("batch_tokens", [1, 40, 100, 10_000])
def test_neither_batch_nor_padding_changes_scores(make_speaker, batch_tokens: int) -> None:
    one_by_one = make_speaker(batch_tokens=1)
    alone = [one_by_one.loglik_rolling([t])[0] for t in TEXTS]
    together = make_speaker(batch_tokens=batch_tokens).loglik_rolling(TEXTS)
    assert together == pytest.approx(alone, rel=1e-5)
    assert make_speaker(batch_tokens=batch_tokens).loglik_rolling(TEXTS[::-1])[::-1] == pytest.approx(alone, rel=1e-5)


def test_what_fills_the_padding_does_not_matter(make_speaker) -> None:
    speaker = make_speaker()
    ids = torch.randint(1, 400, (1, 10), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([ids.expand(3, -1), torch.tensor([[0] * 7, [5] * 7, [399] * 7])], 1)
    logits = speaker.logits(padded)[:, :10]
    torch.testing.assert_close(logits, speaker.logits(ids).expand(3, -1, -1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stride_gives_context(make_speaker) -> None:
    ids = [0, *np.random.default_rng(0).integers(1, 400, 70).tolist()]
    for stride in (3, 32):
        speaker = make_speaker(stride=stride)
        got = speaker.score([np.array(ids)], [1])[0].nats
        assert got == pytest.approx(plain_nats(speaker, ids, 1)[0], rel=1e-5)
        assert speaker.score([np.array(ids)], [1], stride=32)[0].nats == pytest.approx(
            plain_nats(make_speaker(stride=32), ids, 1)[0], rel=1e-5
        )


@torch.no_grad()
def test_loglik_is_of_the_continuation_alone(make_speaker, tokenizer: Tokenizer) -> None:
    speaker = make_speaker()
    requests = [
        ("return the ", "path"),
        ("return the", " path"),
        ("", "path of the run"),
        (" \n", "path"),
        ("x", ""),
        ("de", "f"),  # together this would be another token
        ("The origin of each value is written into the run directory." * 4, " Yes, it is."),
    ]
    got = speaker.loglik(requests)
    assert got[0] == got[1]  # a space between belongs to the continuation
    assert got[4] == (0.0, True)
    splits = [("return the", " path"), ("return the", " path"), ("", "path of the run"), ("", " \npath"), ("x", "")]
    for score, (context, text) in zip(got, [*splits, *requests[5:]], strict=True):
        c, t = tokenizer.encode(context), tokenizer.encode(text)
        assert tokenizer.encode(context + text) == c + t or (context == "de" and len(tokenizer.encode("def")) == 1)
        nats, greedy = plain_nats(speaker, [0, *c, *t], 1 + len(c))
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert score.greedy == greedy


def test_greedy_is_what_generate_writes(make_speaker) -> None:
    speaker = make_speaker(seed=3)
    written = speaker.generate(["def "], 6, temperature=0)[0]
    ids = speaker.tokenizer.encode("def"), speaker.tokenizer.encode(" " + written)
    assert speaker.tokenizer.decode(np.concatenate(ids)) == "def " + written
    context = np.concatenate([[0], speaker.tokenizer.encode("def ")])
    sequence = np.concatenate([context, speaker.logits(context[None])[0, -1].argmax()[None].numpy()])
    other = sequence.copy()
    other[-1] ^= 1
    got = speaker.score([sequence, other], [len(context)] * 2)
    assert (got[0].greedy, got[1].greedy) == (True, False)
    assert got[0].nats > got[1].nats


PROMPTS = ["def ", "", "class Parser:\n    ", "x", "import os\nimport sys\n", "Größe"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("temperature", "knobs"),
    [
        (0.0, {}),
        (1.0, {}),
        (1.0, {"window": 5, "window_pattern": "SF"}),
        (0.0, {"position": "learned"}),
        (1.0, {"vocab_size": 512}),
    ],
)
def test_replies_equal_those_without_cache_and_batch(make_speaker, knobs: dict, temperature: float) -> None:
    """Ragged prompts, replies that end at different times, and more tokens than the model's sequence of 24."""
    speaker = make_speaker(sequence=24, **knobs)
    sampling = Sampling(temperature=temperature, seed=5, repetition_penalty=1.3)
    how = {"temperature": temperature, "seed": 5, "repetition_penalty": 1.3, "heal": False}
    want = [plain_reply(speaker, p, 36, sampling, i) for i, p in enumerate(PROMPTS)]
    assert speaker.generate(PROMPTS, 36, **how) == want
    speaker.batch_tokens = 64
    assert speaker.generate(PROMPTS, 36, **how) == want
    assert "".join(speaker.stream(PROMPTS[0], 36, **how)) == want[0]


def test_replies_depend_on_seed_and_place_only(make_speaker) -> None:
    speaker = make_speaker()
    first = speaker.generate(["def ", "def "], 20, temperature=1.0)
    assert first[0] != first[1]
    assert speaker.generate(["def ", "x"], 20, temperature=1.0)[0] == first[0]
    assert speaker.generate(["def "], 20, temperature=1.0, seed=1)[0] != first[0]


def test_an_end_token_or_a_stop_text_ends_a_reply(make_speaker, tokenizer: Tokenizer) -> None:
    speaker = make_speaker()
    whole = speaker.generate(["def "], 60, temperature=1.0)[0]
    stop = whole[10:13]
    cut = whole[: whole.index(stop)]
    assert speaker.generate(["def "], 60, temperature=1.0, stop=["never!", stop]) == [cut]
    assert "".join(speaker.stream("def ", 60, temperature=1.0, stop=[stop])) == cut
    head = speaker.model.output.weight.data
    head[tokenizer.eos_id] = 0
    with torch.no_grad():
        speaker.model.norm.weight.fill_(0)  # all logits 0: the likeliest is token 0, the end
    assert tokenizer.eos_id == 0
    assert speaker.generate(["def "], 60, temperature=0) == [""]


def test_streamed_pieces_never_hold_half_a_character(make_speaker) -> None:
    speaker = make_speaker(seed=2)
    pieces = list(speaker.stream("Größe €", 80, temperature=2.0))
    assert "".join(pieces) == speaker.generate(["Größe €"], 80, temperature=2.0)[0]
    assert all(pieces)


def test_nothing_to_write(make_speaker) -> None:
    assert make_speaker().generate(["def "], 0) == [""]
    assert make_speaker().generate([], 5) == []


def test_training_mode_is_given_back_and_weights_can_still_learn(make_speaker) -> None:
    speaker = make_speaker()
    speaker.model.train()
    speaker.loglik_rolling(["abc"])
    assert speaker.model.training
    speaker.model(torch.tensor([[1, 2]])).sum().backward()
    assert all(p.grad is not None for p in speaker.model.parameters())


def test_logits_are_the_models(make_speaker) -> None:
    speaker = make_speaker()
    ids = np.array([[0, 5, 7], [0, 9, 2]])
    got = speaker.logits(ids)
    assert (got.dtype, list(got.shape)) == (torch.float32, [2, 3, speaker.model.vocab_size])
    with torch.no_grad():
        assert torch.equal(got, speaker.model(torch.from_numpy(ids)))
    assert not got.requires_grad
    assert speaker.num_parameters == sum(p.numel() for p in speaker.model.parameters())


def test_faults_are_sentences(make_speaker, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="the tokenizer has 400 tokens and the model only 300"):
        make_speaker(vocab_size=300)
    with pytest.raises(DataError, match=r"the prompt has \d+ tokens and the model reads at most 32"):
        make_speaker().generate(["word " * 80])
    with pytest.raises(DataError, match="tokens and the model reads at most 32"):
        make_speaker().stream("word " * 80)  # at once, not at the first piece
    with pytest.raises(DataError, match="a stride of 33 tokens is not between 1 and"):
        make_speaker(stride=33)
    speaker = make_speaker()
    for ids, said in (([[400]], "0..399"), ([[-1]], "0..399"), ([1, 2], "integers"), ([[0.5]], "integers")):
        with pytest.raises(DataError, match=said):
            speaker.logits(np.array(ids))
    nameless = Speaker(speaker.model, Tokenizer(tokenizer._text, {}))
    with pytest.raises(DataError, match="neither a begin nor an end token"):
        nameless.loglik_rolling(["a"])
    assert math.isfinite(nameless.loglik([("a", "b")])[0].nats)  # the context is something to go by
