"""Hugging Face directories in and out: weights, config, tokenizer, generation config, and a proof that they agree."""

from .compare import Parity, parity
from .families import FAMILIES
from .reading import DTYPES, Imported, end_tokens, generation_config, import_hf
from .writing import Export, choose, export_hf

__all__ = [
    "DTYPES",
    "FAMILIES",
    "Export",
    "Imported",
    "Parity",
    "choose",
    "end_tokens",
    "export_hf",
    "generation_config",
    "import_hf",
    "parity",
]
