"""A data recipe cut into passes, with steps across documents between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tilth.core.protocols import CurateStep

from . import steps
from .passes import Pass
from .recipe import DataRecipe


@dataclass(frozen=True)
class DataPlan:
    """A recipe as passes with steps across documents between them."""

    passes: tuple[Pass, ...]

    @classmethod
    def of(cls, recipe: DataRecipe) -> DataPlan:
        """Cut the steps where one works across documents or a tier ends. Raises RecipeError for a step that cannot be
        run in parts."""
        out: list[Pass] = []
        held: list[tuple[str, CurateStep]] = []
        tier, before = "L1", None

        def close(tier: str, after: tuple[str, CurateStep] | None) -> None:
            first = not out
            name = f"{len(out):02d}-" + "+".join([label[3:] for label, _ in held] or ["documents"])[:60]
            out.append(
                Pass(
                    name=name,
                    tier=tier,
                    steps=tuple(held),
                    extract=recipe.extract if first else None,
                    refuses_pages=first and recipe.extract is None,
                    keep=tuple(recipe.signals) if first else (),
                    before=before,
                    after=after,
                )
            )

        for at, label, config in recipe.labelled():
            built = config.build()
            steps.check(
                [(label[3:], built)],
                ("document", "across"),
                "It works one document after the other, which the engine does not: take `minhash` for `near`, "
                "`exact_documents` for `exact`.",
            )
            if at != tier:
                close(tier, None)
                held, before, tier = [], None, at
            if steps.kind(built) == "across":
                close(tier, (label, config))
                held, before = [], (label, config)
            else:
                held.append((label, config))
        close(tier, None)
        ends = {p.tier: i for i, p in enumerate(out)}
        return cls(tuple(replace(p, promotes=ends[p.tier] == i and p.tier != "L1") for i, p in enumerate(out)))

    @staticmethod
    def notices(recipe: DataRecipe) -> Iterator[tuple[str, str]]:
        """(label, sentence) of what steps say before anything is read."""
        for _, label, config in recipe.labelled():
            for notice in steps.notices(config.build()):
                yield label, notice

    def last_of(self, tier: str) -> int:
        """Number of the pass that leaves the documents of a tier."""
        return max(i for i, p in enumerate(self.passes) if p.tier == tier)
