"""A run folder as `segshift adapt` leaves one, made of random numbers: no network, milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segshift.evaluate import Scores, confusion
from segshift.picked_images import pick, picture_folder
from segshift.scored_details import DetailsCounter, read_details, write_details
from segshift.taxonomy import IGNORE, LabelSpace

STREET = LabelSpace(
    "street",
    ("road", "sidewalk", "building", "pole", "vegetation", "sky", "car", "train"),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (153, 153, 153),
        (107, 142, 35), (70, 130, 180), (0, 0, 142), (0, 80, 100),
    ),
    {"flat": (0, 1)},
)  # fmt: skip
"""Eight classes; "train" never occurs."""


def street_label(rng: np.random.Generator, height: int = 48, width: int = 96) -> np.ndarray:
    """(h, w) uint8: sky, buildings, a road, some objects and an ignored band."""
    label = np.full((height, width), 5, np.uint8)
    label[height // 3 :] = 2
    label[height // 2 :, : width // 4] = 4
    label[2 * height // 3 :] = 1
    for row in range(2 * height // 3, height):
        half = width // 8 + 2 * (row - 2 * height // 3)
        label[row, max(0, width // 2 - half) : width // 2 + half] = 0
    x = int(rng.integers(width // 2, width - 16))
    label[height // 2 + 4 : 2 * height // 3 + 3, x : x + 14] = 6
    label[height // 4 : 2 * height // 3, x - 8 : x - 6] = 3
    label[-2:] = IGNORE
    return label


def degraded(label: np.ndarray, rng: np.random.Generator, rate: float, classes: int = 7) -> np.ndarray:
    """A prediction: blocks of the label replaced by a random class, `rate` of them."""
    blocks = rng.random((label.shape[0] // 4, label.shape[1] // 4)) < rate
    wrong = np.kron(blocks, np.ones((4, 4), bool))
    noise = np.kron(rng.integers(0, classes, blocks.shape), np.ones((4, 4), int)).astype(np.uint8)
    filled = np.where(label == IGNORE, 0, label)
    return np.where(wrong, noise, filled).astype(np.uint8)


def make_run(
    path: Path,
    *,
    label: str = "CBST",
    seed: int = 0,
    rate: float = 0.25,
    rounds: int = 3,
    panels: int = 2,
    scored: bool = True,
    space: LabelSpace = STREET,
    loss: str = "target",
) -> Path:
    """Write a run folder whose adapted model is wrong on about `rate` of the blocks, its warm-up on 0.45.

    Runs of one seed share their warm-up; all runs share the test set (6 images).
    """
    rng = np.random.default_rng(seed)
    truths = [street_label(np.random.default_rng([0, i])) for i in range(6)]
    warmup = [degraded(t, np.random.default_rng([1, seed, i]), 0.45) for i, t in enumerate(truths)]
    final = [degraded(t, np.random.default_rng([2, seed, i]), rate) for i, t in enumerate(truths)]
    _write(path / "run.json", _info(path.name, label, seed, space))
    if scored:
        for name, predicted in (("warmup", warmup), ("final", final)):
            pairs = [(torch.from_numpy(t), torch.from_numpy(p)) for t, p in zip(truths, predicted, strict=True)]
            scores = Scores(space, confusion(pairs, len(space)), len(pairs))
            _write(path / "evaluation" / f"{name}.json", scores.to_dict())
    for i in range(panels):
        folder = path / "evaluation" / "panels" / f"target__{i:03d}"
        folder.mkdir(parents=True)
        image = space.palette()[np.where(truths[i] == IGNORE, 0, truths[i])].astype(int) // 2 + 60
        image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        for name, pixels in (("image", image), ("truth", truths[i]), ("warmup", warmup[i]), ("final", final[i])):
            Image.fromarray(pixels).save(folder / f"{name}.png")
    for number in range(1, rounds + 1):
        _write(path / f"round-{number}" / "statistics.json", _statistics(number, len(space), rng))
    _write_log(path / "log.jsonl", rounds, loss, rng)
    return path


def add_details(path: Path, seed: int = 0, rate: float = 0.25) -> None:
    """What a run keeps of its scoring since images are picked: details, their pictures, the source's classes."""
    truths = [street_label(np.random.default_rng([0, i])) for i in range(6)]
    names = [f"target/{i:03d}" for i in range(6)]
    labels: dict[str, list[np.ndarray]] = {}
    for number, (which, share) in enumerate((("warmup", 0.45), ("final", rate)), start=1):
        labels[which] = [degraded(t, np.random.default_rng([number, seed, i]), share) for i, t in enumerate(truths)]
        counter = DetailsCounter(len(names), len(STREET))
        for i, (truth, label) in enumerate(zip(truths, labels[which], strict=True)):
            logits = torch.nn.functional.one_hot(torch.from_numpy(label).long(), len(STREET)).permute(2, 0, 1) * 4.0
            counter.see(i, [logits], torch.from_numpy(truth), torch.from_numpy(label))
        write_details(path, which, counter.details(names))
    final, warmup = read_details(path, "final"), read_details(path, "warmup")
    assert final is not None
    for i in pick(final, warmup).all:
        folder = picture_folder(path, names[i])
        folder.mkdir(parents=True)
        image = STREET.palette()[truths[i]] // 2 + 60
        pictures = {"image": image, "truth": truths[i], "warmup": labels["warmup"][i], "final": labels["final"][i]}
        for name, pixels in pictures.items():
            Image.fromarray(pixels).save(folder / f"{name}.png")
    counted = {name: 100 * c for c, name in enumerate(STREET.classes)}
    _write(path / "source-classes.json", {"labels": 50, "of": 120, "pixels": counted})


def add_candidates(path: Path, count: int = 4) -> None:
    """Label-free scores of a few models, as a run that was asked for them leaves; the source had none to hold out."""
    lines = [
        {
            "step": 300 + 60 * n,
            "phase": "adaptation",
            "round": n,
            "scores": {"entropy": 0.5 - 0.05 * n, "information": 1 + 0.1 * n, "snd": 5.0 + n, "source": None},
            "images": 40,
            "oracle": {"miou": 0.3 + 0.02 * n},
        }
        for n in range(count)
    ]
    (path / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _info(name: str, label: str, seed: int, space: LabelSpace) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "warmup_label": "source-only",
        "seed": seed,
        "command": f"segshift adapt {name} --source data/day --target data/dusk --seed {seed}",
        "started": "2025-01-02T03:04:05+00:00",
        "recipe": {"method": {"portion": {"first": 0.2, "step": 0.05, "last": 0.5}}, "rounds": 3},
        "versions": {"segshift": "0.1.0", "torch": "2.6.0", "python": "3.11.9"},
        "threads": 2,
        "device": "cpu",
        "processes": 1,
        "data": {
            "source": {"images": 120, "fingerprint": "a1b2c3d4"},
            "target": {"images": 60, "fingerprint": "b2c3d4e5"},
            "test": {"images": 6, "fingerprint": "c3d4e5f6"},
        },
        "space": space.to_dict(),
    }


def _statistics(number: int, k: int, rng: np.random.Generator) -> dict[str, Any]:
    predicted = (rng.dirichlet(np.full(k, 0.7)) * 276480).astype(int)
    predicted[-1] = 0
    kept = (predicted * (0.15 + 0.05 * number)).astype(int)
    pixels = 276480
    return {
        "round": number,
        "pixels": pixels,
        "kept": int(kept.sum()),
        "coverage": float(kept.sum() / pixels),
        "thresholds": {"theta": [*np.sort(rng.uniform(0.4, 0.999, k - 1))[::-1].tolist(), 1.0]},
        "predicted": predicted.tolist(),
        "kept_per_class": kept.tolist(),
        "images": 60,
    }


def _write_log(path: Path, rounds: int, loss: str, rng: np.random.Generator) -> None:
    lines = []
    for step in range(1, 301):
        source = 2.2 * np.exp(-step / 80) + 0.3 + 0.08 * rng.standard_normal()
        lines.append({"phase": "warmup", "round": 0, "step": step, "seconds": 0.1 * step, "losses": {"source": source}})
    for number in range(1, rounds + 1):
        for step in range(300 + 60 * (number - 1) + 1, 300 + 60 * number + 1):
            losses = {"source": 0.3 + 0.03 * rng.standard_normal(), loss: 0.6 / number + 0.05 * rng.standard_normal()}
            lines.append(
                {"phase": "adaptation", "round": number, "step": step, "seconds": 0.1 * step, "losses": losses}
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
