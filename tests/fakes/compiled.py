"""Compiled networks in a process of their own, without the checks of shapes, which a compiler cannot look through.

python -m tests.fakes.compiled SOURCE TARGET FOLDER
"""

from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tests.fakes.tiny import assert_same, tiny, watched

from segshift.models.execution import prepared
from segshift.models.small import SAFE_WIDTH, SmallNet
from segshift.runs import resume

NETWORK = SmallNet(width=SAFE_WIDTH, dilations=(1,))


def network() -> None:
    """Two modes of BatchNorm, no gradients, and a copy that goes its own way."""
    torch.manual_seed(0)
    compiled, image = NETWORK.build(3), torch.rand(2, 3, 32, 48)
    plain = copy.deepcopy(compiled)
    prepared(compiled, channels_last=False, compiled=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for training in (True, False):
        compiled.zero_grad()
        plain.zero_grad()
        found, expected = compiled.train(training)(image).logits, plain.train(training)(image).logits
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        found.square().mean().backward()
        expected.square().mean().backward()
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-4)
    with torch.no_grad():
        plain.load_state_dict(compiled.state_dict())
        assert torch.equal(compiled(image).logits, plain(image).logits)  # without a gradient it runs as it is written
        other = copy.deepcopy(compiled)
        other.classifier.bias += 1
    found, expected = (one(image).logits for one in (other, compiled))
    torch.testing.assert_close(found, expected + 1, rtol=1e-3, atol=1e-4)


def run(source: Path, target: Path, folder: Path) -> None:
    """From end to end, and again from the middle."""
    recipe = replace(tiny("advent", source, target, compile=True), network=NETWORK)
    whole = watched(recipe, folder / "run")
    middle = whole.copies[len(whole.copies) // 2]
    assert_same(resume(Path(shutil.copytree(middle, folder / "again"))), whole.folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    network()
    run(*map(Path, sys.argv[1:]))
