"""The files of a tokenizer: what a directory says of it, and what of that is passed on.

Passed on are names of special tokens, chat templates, and a few settings that do not change ids. What names a class or
code is not: readers that build a tokenizer by a class's name give other ids than tokenizer.json says. Nor are a
truncation and a padding that some earlier use left in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tilth.core.errors import DataError
from tilth.core.rundir import named_inside, read_json, read_text, write_json, write_whole

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""What single special tokens are for, by the names of tokenizer_config.json."""
MORE = ("additional_special_tokens", "extra_special_tokens")
"""Fields that hold several: a list, or a mapping from a role of the model's own."""
KEPT = (*ROLES, *MORE, "chat_template", "clean_up_tokenization_spaces", "padding_side", "model_max_length")
"""Fields of tokenizer_config.json that are passed on as they are."""
READ = (*KEPT, "add_bos_token", "split_special_tokens")
"""Fields that count here."""
MOST_BYTES = 1 << 30
"""A larger tokenizer.json is not read."""
SENTENCEPIECE = ("tokenizer.model", "spiece.model")
TEMPLATES = "additional_chat_templates"


class Files(NamedTuple):
    """What a directory says of a tokenizer."""

    text: str
    """tokenizer.json"""
    config: dict[str, Any]
    """The fields `READ` of tokenizer_config.json, completed from the other files."""
    templates: dict[str, str]
    """Chat templates that are files of their own: relative path -> Jinja."""


def read(file: Path, convert: Callable[[Path], str]) -> Files:
    """What lies beside `file`, a tokenizer.json; `convert` makes one of a SentencePiece model where there is only that.

    Special tokens are those tokenizer_config.json names (null: none). What it does not mention is looked up in
    special_tokens_map.json, then begin, end and padding in generation_config.json and config.json. Raises DataError
    naming the file that is missing or damaged.
    """
    folder = file.parent
    models = [folder / name for name in SENTENCEPIECE if not file.is_file() and (folder / name).is_file()]
    text = convert(models[0]) if models else _text(file)
    given = read_object(folder / "tokenizer_config.json")
    config = {k: v for k, v in given.items() if k in READ}
    if models:  # SentencePiece knows no special tokens in texts
        config.setdefault("split_special_tokens", True)
    names = read_object(folder / "special_tokens_map.json")
    ids = read_object(folder / "config.json") | read_object(folder / "generation_config.json")
    for role in (*ROLES, *MORE):
        if role not in config:
            config[role] = names.get(role, ids.get(f"{role}_id") if role in ROLES[:3] else None)
    files = [folder / "chat_template.jinja", *sorted((folder / TEMPLATES).glob("*.jinja"))]
    return Files(text, config, {f.relative_to(folder).as_posix(): _text(f) for f in files if f.is_file()})


def write(path: Path, text: str, config: Mapping[str, Any], templates: Mapping[str, str]) -> None:
    """The files as `read` and `transformers.AutoTokenizer` read them, tokenizer.json last."""
    named = {role: config[role] for role in (*ROLES, *MORE) if config.get(role)}
    write_json(path / "special_tokens_map.json", named)
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})
    for name, template in templates.items():
        write_whole(named_inside(path, name), template)
    write_whole(path / "tokenizer.json", text)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} if there is no such file."""
    return read_json(path, missing={}, finite=False)


def _text(file: Path) -> str:
    if not file.exists():
        raise DataError("this file is missing.", where=str(file), fix=_other_formats(file.parent))
    return read_text(file, MOST_BYTES)


def _other_formats(path: Path) -> str:
    """What would work for a directory that holds a tokenizer in another form."""
    found = [n for n in ("vocab.json", "vocab.txt") if (path / n).is_file()]
    if not found:
        return "Name a directory that holds one, or the file itself."
    return (
        f"There is a {found[0]}; convert it once with "
        "`transformers.AutoTokenizer.from_pretrained(dir).save_pretrained(new_dir)`."
    )
