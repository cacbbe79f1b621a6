"""tilth: raw text to a trained, evaluated language model, every method a swappable file with evidence."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load", "run"]


def __getattr__(name: str) -> Any:
    """`tilth.run` and `tilth.load`, imported on first use so that `import tilth` costs nothing."""
    if name in __all__:
        from tilth import job

        return getattr(job, name)
    raise AttributeError(f"module 'tilth' has no attribute '{name}'")
