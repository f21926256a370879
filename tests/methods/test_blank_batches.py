"""A batch in which no pixel of a domain has a label is trained on by every method, and breaks none."""

from __future__ import annotations

import math

import pytest
import torch
from tests.methods.test_laws import every, images, model, step

from segshift.guards import require_finite
from segshift.methods.cpsl import CPSLConfig
from segshift.methods.distillation import DistillationConfig
from segshift.types import IGNORE, Batch, Images, MethodConfig

ON_LABELS = {"source": {"source"}, "target": {"target", "target (oracle)", "confident"}}
"""Losses on a domain's labels. CPSL's and distillation's on the target are on class probabilities: there, labels are
only counted."""


def unlabelled(given: Images) -> Images:
    """The same images without a label. Their class probabilities stay: a pixel that is not selected has them too."""
    return given._replace(label=torch.full_like(given.label, IGNORE))


GIVEN = {
    "source": Batch(unlabelled(images(1)), images(2)),
    "target": Batch(images(1), unlabelled(images(2))),
    "both": Batch(unlabelled(images(1)), unlabelled(images(2))),
}


@pytest.mark.parametrize("domain", GIVEN)
@every
def test_all_stays_finite(config: MethodConfig, domain: str) -> None:
    """Losses and gradients of such a step, and after a few, what is kept by the optimiser, a momentum network, a memory
    of clusters."""
    method = config.build(model(), 10, 0)
    for t, given in enumerate((GIVEN[domain], Batch(images(1), images(2)), GIVEN[domain])):
        for losses in step(method, given, t):
            assert all(math.isfinite(loss) for loss in losses.values()), losses
        for player in method.players().values():
            gradients = [p.grad for p in player.parameters() if p.grad is not None]
            assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    require_finite(method.players(), 3, method.optimizers(), method.state_dict())


@every
def test_a_loss_on_labels_is_zero_without_any(config: MethodConfig) -> None:
    for domain in config.domains:
        found: dict[str, float] = {}
        for losses in config.build(model(), 10, 0).step(GIVEN[domain], 0):
            found |= {name: loss.item() for name, loss in losses.items()}
        on_labels = found.keys() & ON_LABELS[domain]
        if domain == "target" and isinstance(config, (CPSLConfig, DistillationConfig)):
            assert found["target"] > 0
        else:
            assert all(found[name] == 0 for name in on_labels), found
            assert on_labels or domain == "target"
