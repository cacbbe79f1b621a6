"""A language model that writes refining programs for `tilth.data.curate.refine`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tilth.core.errors import DataError, PlanError


class Model:
    """A causal language model with its tokenizer, decoded greedily on one thread's worth of determinism: one prompt at
    a time, so an answer never depends on its neighbours."""

    def __init__(self, path: str) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise PlanError(
                "a model that writes programs needs transformers.",
                where="refine.model",
                fix="pip install transformers.",
            ) from None
        place = Path(path).expanduser()
        place = place / "export" if (place / "export").is_dir() else place
        if not (place / "config.json").is_file():
            raise DataError(
                "there is no model here (config.json is missing).",
                where=path,
                fix="Name a directory with Hugging Face's files, or a tilth run that was exported.",
            )
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(place, **local)
            self._model = AutoModelForCausalLM.from_pretrained(place, use_safetensors=True, **local).eval()
        except (OSError, ValueError, KeyError) as err:
            raise DataError(f"this model cannot be read: {err}.", where=str(place)) from None
        self._torch = torch

    def head(self, text: str, tokens: int) -> str:
        ids = self._tokenizer(text, add_special_tokens=False, truncation=True, max_length=tokens)["input_ids"]
        return text if len(ids) < tokens else str(self._tokenizer.decode(ids))

    def count(self, lines: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(list(lines), add_special_tokens=False)["input_ids"]]

    def write(self, prompt: str, tokens: int) -> str:
        given = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None:  # a model that has room for less reads the end of the prompt
            given = given[:, -max(1, room - tokens) :]
        with self._torch.inference_mode():
            made = self._model.generate(
                given,
                attention_mask=self._torch.ones_like(given),
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=self._tokenizer.eos_token_id or 0,
            )
        return str(self._tokenizer.decode(made[0, given.shape[1] :], skip_special_tokens=True))
