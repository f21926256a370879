"""Every recipe row cut down to seconds: a network of a few thousand weights, few steps, 64-pixel images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from segshift import checkpoint
from segshift.data.transforms import View
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase, Settings
from segshift.recipe import Recipe
from segshift.recipes import find
from segshift.run_log import RunLog
from segshift.runs import resume, start

NETWORK = SmallNet(width=4, dilations=(1,))
SETTINGS = Settings(threads=1, accelerator="cpu", checkpoint_steps=1, keep=3)
WARMUP_STEPS, ROUNDS, STEPS = 3, 2, 2


def tiny(row: str, source: Path, target: Path, **settings: Any) -> Recipe:
    """`own/ROW` on the two folders: the phases, policies and options of the recipe, a fraction of its size."""
    recipe = find(f"own/{row}")
    data = replace(recipe.data, target=str(target), short_side=48)
    return replace(
        recipe,
        network=NETWORK,
        warmup=_cut(recipe.warmup, 1e-2, WARMUP_STEPS),
        alignment=None if recipe.alignment is None else _cut(recipe.alignment, 1e-3, STEPS),
        adaptation=None if recipe.adaptation is None else _cut(recipe.adaptation, 1e-3, STEPS),
        distillation=None if recipe.distillation is None else _cut(recipe.distillation, 1e-2, STEPS, restart="random"),
        data=replace(data, source=None if data.source is None else str(source)),
        settings=replace(SETTINGS, **settings),
    )


def _cut(phase: Phase, lr: float, steps: int, **options: Any) -> Phase:
    """A phase of few steps on few pixels."""
    method: Any = replace(phase.method, optimizer=Optimizer("adamw", lr=lr, head_multiplier=1))  # type: ignore[call-arg]
    if hasattr(method, "discriminator"):
        method = replace(method, discriminator=replace(method.discriminator, width=4))
    view = View((32, 32), (0.8, 1.2))
    rounds = min(ROUNDS, phase.rounds)
    phase = replace(phase, method=method, rounds=rounds, steps=steps, batch=2, source_view=view, target_view=view)
    return replace(phase, **options)


class Watched(NamedTuple):
    """A finished run, and copies of its folder as a kill right after each checkpoint would have left it."""

    folder: Path
    copies: tuple[Path, ...]


def watched(recipe: Recipe, folder: Path, warmup: Path | None = None) -> Watched:
    """Run a recipe, copying its folder aside whenever a checkpoint has been written."""
    save, copies = checkpoint.save, []

    def save_and_copy(path: Path, state: Any) -> None:
        save(path, state)
        if path.parent.name == "predicted":  # labels kept for the report's pictures
            return
        copies.append(folder.with_name(f"{folder.name}-{len(copies):02d}-{path.stem}"))
        shutil.copytree(folder, copies[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_copy)
        start(recipe, folder, warmup)
    return Watched(folder, tuple(copies))


def weights(run: Path) -> bytes:
    """The bytes of a run's final weights."""
    return (run / "model" / "model.safetensors").read_bytes()


def rounds(run: Path) -> dict[str, bytes]:
    """Pseudo-labels, thresholds and counts of all rounds: file -> content."""
    files = (path for path in run.glob("round-*/**/*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def losses(run: Path) -> list[tuple[str, int, int, dict[str, float]]]:
    """(phase, round, step, losses) of each step."""
    return [(e["phase"], e["round"], e["step"], e["losses"]) for e in RunLog(run / "log.jsonl").read()]


def assert_same(run: Path, reference: Path) -> None:
    """Weights and pseudo-labels to the bit, the same losses at the same steps, the same scores."""
    assert weights(run) == weights(reference)
    assert rounds(run) == rounds(reference)
    assert losses(run) == losses(reference)
    for name in ("warmup", "final"):
        scores = Path("evaluation") / f"{name}.json"
        assert (run / scores).read_bytes() == (reference / scores).read_bytes()


def assert_resumes_everywhere(run: Watched, folder: Path, every: int = 1) -> None:
    """Killed after any checkpoint (or every so many) and resumed, a run is the one that was left alone."""
    assert len(run.copies) >= ROUNDS * (STEPS + 1)
    for number, copy in enumerate(run.copies[::every]):
        assert_same(resume(Path(shutil.copytree(copy, folder / f"again-{number}"))), run.folder)
