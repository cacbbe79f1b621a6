"""config.json read field by field: what is not understood is refused, never passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from tilth.core.errors import DataError

WITHOUT_EFFECT = frozenset(
    {
        *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "tokenizer_class"),
        *("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "use_cache", "cache_implementation"),
        *("n_ctx", "pretraining_tp", "reorder_and_upcast_attn", "return_dict", "problem_type", "task_specific_params"),
        *("id2label", "label2id", "summary_activation", "summary_first_dropout", "summary_proj_to_labels"),
        *("summary_type", "summary_use_proj", "max_length", "min_length", "temperature", "top_k", "top_p"),
        *("num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty", "length_penalty"),
        "repetition_penalty",
    }
)
"""Fields that do not change logits at inference. Dropout is among them: tilth trains without it."""

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping",
    list: "a list",
}


class Fields:
    """The fields of one config.json; `take` each that matters, then `finish`."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data, self.where, self._taken = data, where, set[str]()

    def take(self, name: str, kind: type, *default: Any, null: Any = ...) -> Any:
        """The field's value; `default` if absent, `null` (default: as if absent) if null.

        Raises DataError if it is of another kind, or absent without a default.
        """
        self._taken.add(name)
        value = self._data.get(name)
        if value is None:
            if name in self._data and null is not ...:
                return null
            return default[0] if default else self.refuse(name, "is missing")
        expected: Any = (int, float) if kind is float else kind
        if not isinstance(value, expected) or isinstance(value, bool) != (kind is bool):
            self.refuse(name, f"must be {_NAMES[kind]}, not {value!r:.60}")
        return float(value) if kind is float else value

    def size(self, name: str, *default: Any, most: int = 1 << 24) -> Any:
        """A whole number from 1 to `most`, refused before anything is made that long."""
        value = self.take(name, int, *default)
        if value is not None and not 1 <= value <= most:
            self.refuse(name, f"is {value}, not from 1 to {most:,}")
        return value

    def need(self, name: str, kind: type, only: Any, because: str) -> None:
        """Refuse the field unless it is absent, null or `only`."""
        value = self.take(name, kind, only)
        if value != only:
            self.refuse(name, f"is {value!r:.60}, and {because}")

    def choose(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """Translate a word."""
        word = self.take(name, str, default)
        if word not in choices:
            self.refuse(name, f"is {word!r:.60}; tilth can read {', '.join(choices)} here")
        return choices[word]

    def refuse(self, name: str, why: str, fix: str = "") -> NoReturn:
        """Raise DataError naming the field."""
        raise DataError(f"the field {name} {why}.", where=self.where, fix=fix)

    def finish(self, ignore: frozenset[str] = frozenset()) -> None:
        """Refuse fields nobody took, unless they are known to have no effect, empty, or named in `ignore`."""
        for name, value in self._data.items():
            idle = not value or name.startswith("_") or name in WITHOUT_EFFECT or name in ignore
            if name not in self._taken and not idle:
                self.refuse(
                    name,
                    f"({value!r:.60}) is not one tilth knows, so the model might not be what it seems",
                    f"If it does not change the logits, import with `--ignore {name}` (Python: ignore=['{name}']).",
                )
