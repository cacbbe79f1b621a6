"""A speaker: a model and its tokenizer together, so that text can be scored and continued.

Texts are scored as in training: a document starts behind the begin token (or the end token where there is only that
one), and the end of a document is not scored. A part of a text has the begin token before it where the tokenizer's
texts begin with it. A prompt that ends in white space is continued as such text was tokenized in training (`healing`).
Rows of a batch are padded on the right, where causal attention does not look, so neither the batch nor its padding
changes a result (beyond the rounding of differently shaped products).

Shape letters: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tilth.arch.hf.reading import end_tokens
from tilth.core import progress
from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.data.tokens.tokenizer import Tokenizer

from .healing import Healer
from .sampling import Sampling

_CONTEXT = 8
"""Tokens of a prompt behind which a reply is decoded: a first token alone may lose its space."""
LOGIT_BYTES = 64 << 20
"""Size of the logits held at once while scoring."""


class Score(NamedTuple):
    """What a model thinks of the scored part of a token sequence."""

    nats: float
    """Sum of log p, natural logarithm."""
    greedy: bool
    """Every token was the likeliest one."""


@dataclass(frozen=True)
class Window:
    """Tokens start..stop-1 are read, tokens first..stop-1 are scored (start < first < stop)."""

    start: int
    first: int
    stop: int


def windows(length: int, first: int, size: int, stride: int) -> list[Window]:
    """Windows that score each of the tokens first..length-1 once, reading at most `size` tokens before the last one.

    The first window is as long as it can be; later ones score at most `stride` tokens, so that each has at least
    `size - stride + 1` tokens of context (half a window by default, all there are near the start of a text).
    """
    out: list[Window] = []
    while first < length:
        stop = min(length, max(first + stride, size + 1))
        out.append(Window(max(0, stop - 1 - size), first, stop))
        first = stop
    return out


class Speaker:
    """Scores and continues text. Its arithmetic is the model's compute dtype; no gradients are kept."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int = 8192,
        stride: int | None = None,
        generation: Mapping[str, Any] | None = None,
        dtype: str = "float32",
    ) -> None:
        """`batch_tokens`: tokens per forward pass. `stride`: tokens scored per window of a text longer than the
        model's sequence (None: half the sequence); smaller gives more context and costs more.

        `generation`: fields of the generation_config.json the model came with, which an export hands on; its end
        tokens end replies. `dtype`: what an export is written as unless it is asked for another.
        Raises DataError if the tokenizer has more tokens than the model.
        """
        if tokenizer.vocab_size > model.vocab_size:
            raise DataError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model only {model.vocab_size}.",
                where="tokenizer",
                fix="Use the tokenizer the model was trained with.",
            )
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.generation, self.dtype = batch_tokens, generation, dtype
        self.stride = max(1, model.max_sequence // 2) if stride is None else stride
        if not 1 <= self.stride <= model.max_sequence:
            raise DataError(
                f"a stride of {self.stride} tokens is not between 1 and the sequence of {model.max_sequence}.",
                where="stride",
            )
        self._start = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        self.ends = frozenset(end_tokens(tokenizer.eos_id, generation))
        """Tokens that end a reply."""

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, a tied head counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def max_sequence(self) -> int:
        """Tokens the model can read at once."""
        return self.model.max_sequence

    def begin(self, empty: bool) -> list[int]:
        """The token ids put before a text: the begin token, if texts begin with it; `empty`: what starts a document, as
        nothing else stands before what is scored."""
        if not empty:
            return [self.tokenizer.bos_id] if self.tokenizer.begins and self.tokenizer.bos_id is not None else []
        if self._start is None:
            raise DataError(
                "this tokenizer has neither a begin nor an end token, so nothing stands before a text's first token.",
                where="tokenizer",
                fix="Name one as bos_token or eos_token in tokenizer_config.json.",
            )
        return [self._start]

    # ---- scoring -------------------------------------------------------------------------------------------------

    def logits(self, ids: Tensor | np.ndarray) -> Tensor:
        """Token ids int64 [B, T] -> logits float32 [B, T, V]; nothing is put before them."""
        ids = torch.as_tensor(np.asarray(ids) if not isinstance(ids, Tensor) else ids)
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise DataError(f"token ids are integers [B, T], not {ids.dtype} {list(ids.shape)}.", where="ids")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.model.vocab_size:
            raise DataError(f"token ids must be in 0..{self.model.vocab_size - 1}.", where="ids")
        with self._quiet():
            return self.model(ids.long().to(self._device)).float()

    def loglik(self, requests: Sequence[tuple[str, str]]) -> list[Score]:
        """log p(continuation | context) for pairs of texts, in nats, and whether greedy decoding would write it.

        Spaces at the end of a context count to the continuation, where tokenizers expect them. The pair is tokenized
        as one text where that leaves the context's tokens as they are, else each part on its own. A context that does
        not fit is cut on the left.
        """
        moved = [(c.rstrip(), c[len(c.rstrip()) :] + text) for c, text in requests]
        contexts = self.tokenizer.encode_batch([c for c, _ in moved])
        wholes = self.tokenizer.encode_batch([c + text for c, text in moved])
        texts = self.tokenizer.encode_batch([text for _, text in moved])
        sequences, first = [], []
        for context, whole, text in zip(contexts, wholes, texts, strict=True):
            if not np.array_equal(whole[: len(context)], context):
                whole = np.concatenate([context, text])
            before = self._before(context)
            sequences.append(np.concatenate([before, whole]).astype(np.int64))
            first.append(len(before) + len(context))
        return self.score(sequences, first)

    def loglik_rolling(self, texts: Sequence[str]) -> list[float]:
        """log p of each whole text as a document, in nats."""
        return [s.nats for s in self.score(self.documents(texts), [1] * len(texts))]

    def documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids int64 of each text behind the token that starts a document."""
        before = self._before([])
        return [np.concatenate([before, ids]).astype(np.int64) for ids in self.tokenizer.encode_batch(texts)]

    def score(self, sequences: Sequence[np.ndarray], first: Sequence[int], stride: int | None = None) -> list[Score]:
        """Score tokens first[i].. of each id sequence given all before them, in windows where it is too long."""
        if any(f < 1 for f in first):
            raise ValueError("the first token of a sequence has nothing before it to be predicted from")
        pieces = [
            (row, w)
            for row, (ids, f) in enumerate(zip(sequences, first, strict=True))
            for w in windows(len(ids), f, self.max_sequence, stride or self.stride)
        ]
        pieces.sort(key=lambda p: p[1].start - p[1].stop)  # alike lengths together, longest first
        nats, greedy = np.zeros(len(sequences)), np.ones(len(sequences), bool)
        with progress.stage("scoring", sum(w.stop - w.start for _, w in pieces), "tokens") as advance:
            while pieces:
                width = pieces[0][1].stop - pieces[0][1].start - 1
                rows = max(1, self.batch_tokens // width)
                batch, pieces = pieces[:rows], pieces[rows:]
                for (row, _), (total, likeliest) in zip(batch, self._score(sequences, batch), strict=True):
                    nats[row] += total
                    greedy[row] &= likeliest
                advance(sum(w.stop - w.start for _, w in batch))
        return [Score(float(n), bool(g)) for n, g in zip(nats, greedy, strict=True)]

    def _score(self, sequences: Sequence[np.ndarray], batch: list[tuple[int, Window]]) -> list[Score]:
        """Scores of windows in one forward pass."""
        width = batch[0][1].stop - batch[0][1].start - 1
        ids = np.zeros((len(batch), width + 1), np.int64)
        scored = np.zeros((len(batch), width), bool)
        for b, (row, w) in enumerate(batch):
            ids[b, : w.stop - w.start] = sequences[row][w.start : w.stop]
            scored[b, w.first - 1 - w.start : w.stop - 1 - w.start] = True
        where = torch.from_numpy(scored).to(self._device)
        tokens = torch.from_numpy(ids).to(self._device)
        logp, best = [], []
        with self._quiet():
            hidden, targets = self.model.hidden(tokens[:, :-1])[where], tokens[:, 1:][where]
            step = max(1, LOGIT_BYTES // (4 * self.model.vocab_size))
            for h, t in zip(hidden.split(step), targets.split(step), strict=True):
                logits = self.model.logits(h)
                logp.append(logits.gather(1, t[:, None])[:, 0] - logits.logsumexp(-1))
                best.append(logits.argmax(-1) == t)
        counts = scored.sum(1)
        ends = np.cumsum(counts)[:-1]
        totals = np.split(torch.cat(logp).cpu().double().numpy(), ends)
        likeliest = np.split(torch.cat(best).cpu().numpy(), ends)
        return [Score(float(n.sum()), bool(g.all())) for n, g in zip(totals, likeliest, strict=True)]

    # ---- writing -------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int = 128,
        *,
        stop: Sequence[str] = (),
        heal: bool = True,
        **sampling: Any,
    ) -> list[str]:
        """Continuations of prompts (without the prompts), each until an end token, a `stop` text or `max_tokens`.

        `sampling` are the fields of `Sampling`: temperature (0: greedy), top_k, top_p, min_p, repetition_penalty, seed.
        `heal`: write the tokens of white space at a prompt's end anew, see `healing`. Reply i depends on (seed, i) and
        its prompt, not on the other prompts. When the model's sequence is full, the older half of the text is
        forgotten. Raises DataError for a prompt longer than the model's sequence.
        """
        settings = validate(Sampling, sampling, "generate")
        replies = [self._reply(i, prompt, max_tokens, stop, heal) for i, prompt in enumerate(prompts)]
        longest = max((min(self.max_sequence, len(r.ids) + r.most) for r in replies), default=1)
        rows = max(1, self.batch_tokens // longest)
        with progress.stage("writing", -(-len(replies) // rows) * max_tokens, "tokens") as advance:
            for at in range(0, len(replies), rows):
                for _ in self._write(replies[at : at + rows], settings):
                    advance(1)
        return [r.text for r in replies]

    def stream(
        self, prompt: str, max_tokens: int = 128, *, stop: Sequence[str] = (), heal: bool = True, **sampling: Any
    ) -> Iterator[str]:
        """`generate` for one prompt, piece by piece; no piece ends inside a character or holds a part of `stop`."""
        settings = validate(Sampling, sampling, "stream")
        return self._pieces(self._reply(0, prompt, max_tokens, stop, heal), settings)

    def _pieces(self, reply: _Reply, sampling: Sampling) -> Iterator[str]:
        for _ in self._write([reply], sampling):
            if piece := reply.take():
                yield piece
        if piece := reply.take():
            yield piece

    def last_part(self, text: str, max_tokens: int) -> tuple[str, int]:
        """The end of a text that has at most `max_tokens` tokens, and how many tokens were cut off before it."""
        ids = self.tokenizer.encode(text)
        tokens = len(ids)
        while len(ids) > max_tokens:  # the end alone may be tokenized differently
            text = self.tokenizer.decode(ids[len(ids) - max_tokens :]).lstrip("\ufffd")
            ids = self.tokenizer.encode(text)
        return text, tokens - len(ids)

    def _reply(self, number: int, prompt: str, max_tokens: int, stop: Sequence[str], heal: bool) -> _Reply:
        """An empty reply to a prompt."""
        ids = self.tokenizer.encode(prompt)
        length = len(self._before(ids)) + len(ids)
        if length > self.max_sequence:
            raise DataError(
                f"the prompt has {length} tokens and the model reads at most {self.max_sequence}.",
                where="prompt",
                fix="Shorten it; its last part counts most.",
            )
        kept = ids[: len(ids) - self._healer.cut(ids)] if heal and max_tokens else ids
        before = self._before(kept).tolist()
        return _Reply(number, [*before, *kept], ids[len(kept) :], self, max_tokens, stop)

    @cached_property
    def _healer(self) -> Healer:
        return Healer(self.tokenizer)

    def _write(self, replies: list[_Reply], sampling: Sampling) -> Iterator[None]:
        """Let replies grow together by one token per turn until all are finished."""
        cache, active = None, list(replies)
        most = max((reply.most for reply in replies), default=0)
        for step in range(most):
            with self._quiet():
                if cache is None or cache.end == cache.capacity:
                    cache, hidden = self._read(active, most - step)
                else:
                    last = torch.tensor([[r.ids[-1]] for r in active], device=self._device)
                    hidden = self.model.hidden(last, cache=cache)[:, 0]
                logits = self._masked(self.model.logits(hidden), active)
                seen = [torch.tensor(r.ids, device=self._device) for r in active] if sampling.needs_seen else []
                chosen = sampling.choose(logits, seen, [r.number for r in active], step).tolist()
            for reply, token in zip(active, chosen, strict=True):
                reply.push(token)
            yield
            going = [b for b, reply in enumerate(active) if not reply.done]
            if not going:
                return
            if len(going) < len(active):
                active = [active[b] for b in going]
                cache.select(torch.tensor(going, device=self._device))

    def _masked(self, logits: Tensor, active: list[_Reply]) -> Tensor:
        """Logits [B, V] of the tokens that may come: rows beyond the vocabulary are padding of the matrix, and a reply
        that has to begin with some text begins with it."""
        logits = logits[:, : self.tokenizer.vocab_size]
        for row, reply in enumerate(active):
            if reply.left:
                allowed = torch.tensor(self._healer.allowed(reply.left), device=logits.device)
                only = torch.full_like(logits[row], -torch.inf)
                only[allowed] = logits[row, allowed]
                logits = torch.cat([logits[:row], only[None], logits[row + 1 :]])
        return logits

    def _read(self, active: list[_Reply], more: int) -> tuple[Any, Tensor]:
        """A new cache holding each reply's tokens, and the hidden states [B, D] of their last ones."""
        for reply in active:
            if len(reply.ids) - reply.start > self.max_sequence:
                reply.start = len(reply.ids) - self.max_sequence // 2
        kept = [reply.ids[reply.start :] for reply in active]
        lengths = torch.tensor([len(ids) for ids in kept])
        longest = int(lengths.max())
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in kept], device=self._device)
        cache = self.model.new_cache(len(active), min(self.max_sequence, longest + more))
        hidden = self.model.hidden(padded, cache=cache)
        cache.keep(lengths.to(self._device))
        return cache, hidden[torch.arange(len(active)), lengths - 1]

    # ---- the rest ------------------------------------------------------------------------------------------------

    def export(self, dir: str | Path, format: str = "auto", *, dtype: str | None = None, force: bool = False) -> Any:
        """Write a Hugging Face directory and compare its logits and token ids; see `tilth.arch.hf.export_hf`.

        dtype None: the one the model came in.
        """
        from tilth.arch import hf

        return hf.export_hf(
            Path(dir),
            self.model.config,
            self.model,
            self.tokenizer,
            format=format,
            dtype=self.dtype if dtype is None else dtype,
            generation=self.generation,
            force=force,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """No gradients (not inference mode: a model in training must not keep inference tensors), evaluation mode."""
        was = self.model.training
        if was:
            self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if was:
                self.model.train()

    def _before(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """What `begin` puts before the tokens of a text, unless the begin token stands there already."""
        there = len(ids) > 0 and int(ids[0]) == self.tokenizer.bos_id
        return np.array([] if there else self.begin(empty=len(ids) == 0), np.int64)


class _Reply:
    """One continuation while it is written."""

    def __init__(
        self,
        number: int,
        prompt: list[int],
        cut: list[int],
        speaker: Speaker,
        max_tokens: int,
        stop: Sequence[str],
    ) -> None:
        """`cut`: the prompt's last tokens, which are to be written anew; their text is no part of the reply."""
        self.number, self.ids, self.start, self.done, self.text = number, list(prompt), 0, False, ""
        self.most = max_tokens + len(cut)
        """Tokens it may have, those that were cut among them."""
        self._healer, self._ends, self._stop = speaker._healer, speaker.ends, [s for s in stop if s]
        self.left = self._healer.spell(cut)
        """Bytes it still has to begin with."""
        context, decode = prompt[-_CONTEXT:], speaker.tokenizer.decode
        self._decoder = speaker.tokenizer.stream_decoder(context)
        self._skip = len(decode([*context, *cut])) - len(decode(context))
        self._written = self._taken = 0

    def push(self, token: int) -> None:
        """The next token; an end token or a stop text finishes the reply and is no part of it."""
        if token in self._ends:
            self.finish()
            return
        self.ids.append(token)
        self._written += 1
        self.left = self._healer.left(self.left, token) if self.left else b""
        self._grow(self._decoder.push(token))
        if self._written >= self.most:
            self.finish()

    def finish(self) -> None:
        """No more tokens will come."""
        self._grow(self._decoder.finish())
        self.done = True

    def take(self) -> str:
        """Text that is certain and was not taken yet: what could still become a stop text is held back."""
        end = len(self.text)
        if not self.done:
            end -= max((_overlap(self.text, s) for s in self._stop), default=0)
        piece = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return piece

    def _grow(self, piece: str) -> None:
        self.text += piece[self._skip :]
        self._skip -= min(self._skip, len(piece))
        found = [at for s in self._stop if (at := self.text.find(s)) >= 0]
        if found:
            self.text, self.done = self.text[: min(found)], True


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` that ends `text`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
