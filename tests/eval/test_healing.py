"""White space at a prompt's end is written anew, with the tokens a text that goes on has."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from tilth.core.technique import resolve
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval.healing import Healer, token_bytes
from tilth.eval.sampling import Sampling
from tilth.eval.speaker import Speaker

CODE = Path(__file__).read_text(encoding="utf-8")[:3000] + "\n\n\nclass A:\n    def f(self):\n\t\treturn  1 \n \n"


class _Corpus:
    """The code above as a corpus."""

    sources, key = ["code"], "k"

    def read(self, source: str, split: str):
        import pyarrow as pa

        yield pa.record_batch({"id": ["1"], "text": pa.array([CODE * 3], pa.large_string())})


@pytest.fixture(scope="module", params=["cl100k", "gpt2", "sentencepiece"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("t")
    if request.param != "sentencepiece":
        config = resolve("tokenizer", {"use": "bpe", "vocab_size": 500, "pattern": request.param})
        return Tokenizer.load(config.prepare(_Corpus(), path, lambda line: None))
    sentencepiece = pytest.importorskip("sentencepiece")
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CODE.split("\n")),
        model_writer=made,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (path / "tokenizer.model").write_bytes(made.getvalue())
    return Tokenizer.load(path, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})


def test_a_model_that_knows_a_text_can_go_on_with_it_from_every_space(trained: Tokenizer) -> None:
    """What is kept of a prompt's tokens begins the text's own, and each of those that follow is allowed."""
    healer, whole, healed = Healer(trained), trained.encode(CODE), 0
    for end in range(1, len(CODE)):
        if not CODE[end - 1].isspace():
            continue
        ids = trained.encode(CODE[:end])
        cut = healer.cut(ids)
        kept, left = ids[: len(ids) - cut], healer.spell(ids[len(ids) - cut :])
        assert kept == whole[: len(kept)], CODE[max(0, end - 20) : end]
        at = len(kept)
        while left:
            assert whole[at] in healer.allowed(left), (CODE[max(0, end - 20) : end], left)
            left, at = healer.left(left, whole[at]), at + 1
        healed += ids[len(kept) :] != whole[len(kept) : len(ids)]
    assert healed > 50  # prompts whose own tokens are not those of the text


def test_only_white_space_is_written_anew(trained: Tokenizer) -> None:
    healer = Healer(trained)
    assert healer.cut(trained.encode("class A")) == healer.cut([]) == 0
    assert healer.cut(trained.encode("def ")) >= 1
    assert healer.cut([trained.eos_id or 0]) == 0  # a special token spells nothing


def test_what_is_allowed_can_always_be_finished(trained: Tokenizer) -> None:
    """Whatever allowed token comes, some token is allowed next, until the text is written."""
    healer = Healer(trained)
    open_texts, seen = [b":\n    ", b"\n \t\n", b"  "], set()
    while open_texts:
        text = open_texts.pop()
        allowed = healer.allowed(text)
        assert allowed
        for left in {healer.left(text, i) for i in allowed} - seen - {b""}:
            seen.add(left)
            open_texts.append(left)


def test_tokens_spell_texts(trained: Tokenizer) -> None:
    spelt = token_bytes(trained)
    text = b"".join(spelt[i] for i in trained.encode(CODE)).decode()
    assert text.removeprefix(" ") == CODE


def speaker_of(tokenizer: Tokenizer, make_speaker) -> Speaker:
    made = make_speaker(sequence=64, vocab_size=tokenizer.vocab_size)
    return Speaker(made.model, tokenizer)


@torch.no_grad()
def plain(speaker: Speaker, prompt: str, most: int, sampling: Sampling, number: int) -> str:
    """Token by token, everything read anew, every token of the vocabulary tried."""
    tokenizer, spelt = speaker.tokenizer, token_bytes(speaker.tokenizer)
    ids = tokenizer.encode(prompt)
    cut = Healer(tokenizer).cut(ids)
    target, ids = b"".join(spelt[i] for i in ids[len(ids) - cut :]), ids[: len(ids) - cut]
    ids = [tokenizer.bos_id, *ids]
    start, written = len(ids), b""
    for step in range(most + cut):
        logits = speaker.logits(torch.tensor([ids]))[:, -1, : tokenizer.vocab_size].clone()
        for token in range(tokenizer.vocab_size):
            after = written + spelt.get(token, b"\0")
            if len(written) < len(target) and not (target.startswith(after) or after.startswith(target)):
                logits[0, token] = -torch.inf
        token = int(sampling.choose(logits, [torch.tensor(ids)], [number], step))
        if token == tokenizer.eos_id:
            break
        ids.append(token)
        written += spelt.get(token, b"")
    before = tokenizer.decode(ids[:start]) + target.decode() if start > 1 else target.decode()
    return tokenizer.decode(ids)[len(before) if start > 1 else len(tokenizer.decode(tokenizer.encode(prompt))) :]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_those_of_trying_every_token(trained: Tokenizer, make_speaker, temperature: float) -> None:
    """In one batch, alone, and streamed: the same texts."""
    speaker = speaker_of(trained, make_speaker)
    prompts = ["def ", "class A:\n    ", "x", "import io\n", "a  \n\n", "return 1"]
    how = {"temperature": temperature, "seed": 3}
    replies = speaker.generate(prompts, 12, **how)
    pieces = "<0x00>" in trained.parsed["model"]["vocab"]
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        wanted = plain(speaker, prompt, 12, Sampling(**how), i)
        assert reply == wanted or (pieces and "\ufffd" in wanted)  # bytes of pieces are decoded by runs, as they come
    for prompt in prompts:
        assert "".join(speaker.stream(prompt, 12, **how)) == speaker.generate([prompt], 12, **how)[0]


def test_nothing_but_space_and_nothing_to_write(trained: Tokenizer, make_speaker) -> None:
    speaker = speaker_of(trained, make_speaker)
    assert speaker.generate(["def ", " "], 0) == ["", ""]
    assert len(speaker.generate([" "], 5, temperature=1.0)) == 1
