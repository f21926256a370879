"""Every truncation and every flipped byte of the files a run rests on: refused, or read back as it was written.

    python -m tests.faults.damaging [--seed 0]

prints a table of what was tried on each kind of file. A damage that reads as another content ends it with an error.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segshift import checkpoint
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.soft_labels import SoftLabels
from segshift.errors import RunError
from segshift.models.network import load_model, save_model
from segshift.models.small import SmallNet
from segshift.taxonomy import unnamed
from segshift.types import Features, Geometry


class Kind(NamedTuple):
    """A file as a run writes it, and how it is read."""

    name: str
    path: Path
    read: Callable[[], Any]
    every: int = 1
    """One damage in so many is tried."""


class Tried(NamedTuple):
    """What became of the damaged files of a kind."""

    refused: int
    equal: int


def damages(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Every truncation; at each place, every flipped bit and one byte drawn by `rng`."""
    yield from (content[:end] for end in range(len(content)))
    for at, byte in enumerate(content):
        for change in (*(1 << bit for bit in range(8)), rng.randrange(1, 256)):
            yield content[:at] + bytes([byte ^ change]) + content[at + 1 :]


def sweep(kind: Kind, seed: int) -> Tried:
    """Try all damages of a file. AssertionError where one is read as another content."""
    whole, expected = kind.path.read_bytes(), kind.read()
    refused = equal = 0
    for number, content in enumerate(damages(whole, random.Random(seed))):
        if number % kind.every:
            continue
        kind.path.write_bytes(content)
        try:
            found = kind.read()
        except RunError:
            refused += 1
        else:
            assert same(found, expected), f"{kind.name}: damage {number} is read as another content"
            equal += 1
    kind.path.write_bytes(whole)
    return Tried(refused, equal)


def same(found: Any, expected: Any) -> bool:
    """Whether two contents are equal to the bit."""
    if isinstance(expected, torch.Tensor):
        return isinstance(found, torch.Tensor) and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    return bool(found == expected)


def kinds(folder: Path) -> list[Kind]:
    """One file of each kind."""
    rng = torch.Generator().manual_seed(0)
    labels = PseudoLabels(folder / "round-1", 19)
    labels.write("image", torch.randint(19, (6, 8), generator=rng).repeat_interleave(8, 0).repeat_interleave(8, 1))
    labels.finish({})
    soft = SoftLabels(folder / "soft", 5, 1)
    soft.write(Features("image", [torch.randn(5, 4, 6, generator=rng)], torch.zeros(1, 1, 1), (32, 48)))
    crop = Geometry((32, 48), 0, 0, (32, 48), flip=True)
    step = checkpoint.step_file(folder, 1)
    checkpoint.save(step, {"position": {"t": 1}, "weights": torch.randn(20, generator=rng), "other": [1.5, None, "é"]})
    network = SmallNet(width=4, dilations=(1,))
    save_model(folder / "model", network, network.build(3).state_dict(), unnamed(3), 48)

    def model() -> dict[str, Any]:
        trained = load_model(folder / "model")
        return {"space": trained.space, "side": trained.short_side, "weights": trained.network.state_dict()}

    return [
        Kind("pseudo-label", labels.path("image"), lambda: labels.read("image")),
        Kind("soft label", soft.path("image"), lambda: SoftLabels(folder / "soft", 5, 1).cut("image", crop)),
        Kind("checkpoint", step, lambda: checkpoint.load(step)),
        Kind("model.json", folder / "model" / "model.json", model, every=8),
        Kind("model.safetensors", folder / "model" / "model.safetensors", model, every=100),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory() as folder:
        total = 0
        print(f"{'file':20}{'tried':>8}{'refused':>9}{'read back equal':>17}")
        for kind in kinds(Path(folder)):
            tried = sweep(kind, seed)
            total += sum(tried)
            print(f"{kind.name:20}{sum(tried):8,}{tried.refused:9,}{tried.equal:17,}", flush=True)
        print(f"{'all':20}{total:8,}")


if __name__ == "__main__":
    main()
