"""tilth: raw text to a trained, evaluated language model, every method a swappable file with evidence."""

from typing import Any

from tilth.core.version import VERSION as __version__

__all__ = ["__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    """`tilth.run` and `tilth.load`, imported on first use so that `import tilth` costs nothing."""
    if name in ("load", "run"):
        from tilth import job

        return getattr(job, name)
    raise AttributeError(f"module 'tilth' has no attribute '{name}'")
