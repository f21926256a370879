"""The small network: shapes, BatchNorm everywhere, and that it learns."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segshift.errors import ConfigError, DataError
from segshift.models.segmenter import upsample
from segshift.models.small import SmallNet


@pytest.mark.parametrize("size", [(96, 192), (33, 47), (9, 9)])
def test_shapes(size: tuple[int, int]) -> None:
    model = SmallNet(width=8).build(7).train()
    output = model(torch.rand(1, 3, *size))
    height, width = size
    assert output.logits.shape == (1, 7, -(-height // 4), -(-width // 4))
    assert output.embedding is not None
    assert output.embedding.shape == (1, 16, *output.logits.shape[2:])
    assert [s.shape[2] for s in output.stages] == [-(-height // s) for s in (2, 4, 8)]
    assert (model.stride, model.num_classes) == (4, 7)


def test_every_convolution_but_the_classifier_is_normalised() -> None:
    model = SmallNet().build(3)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions if m.bias is not None] == [3]
    assert len([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]) == len(convolutions) - 1


def test_learns_two_colours() -> None:
    torch.manual_seed(0)
    model = SmallNet(width=8, dilations=(1, 2)).build(2).train()
    label = torch.zeros(2, 32, 32, dtype=torch.long)
    label[:, 8:24, 16:] = 1
    image = torch.where(label[:, None] == 1, 0.8, 0.2).expand(-1, 3, -1, -1)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2), lr=1e-2)
    for _ in range(25):
        loss = F.cross_entropy(upsample(model(image).logits, (32, 32), model.align_corners), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prediction = upsample(model(image).logits, (32, 32), model.align_corners).argmax(1)
    assert (prediction == label).float().mean() > 0.95


def test_state_dict_round_trip_and_gradients() -> None:
    model, other = SmallNet(width=4).build(3), SmallNet(width=4, mean=(0.0, 0.0, 0.0)).build(3)
    image = torch.rand(2, 3, 24, 24)
    model(image).logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(image).logits, other.eval()(image).logits)


def test_wrong_values_are_errors() -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"width": 0},
        {"shallow_blocks": 0},
        {"dilations": ()},
        {"std": (0.0, 1.0, 1.0)},
    )
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SmallNet(**wrong)
    with pytest.raises(DataError, match="9 x 24"):
        SmallNet(width=4).build(3)(torch.rand(1, 3, 8, 24))
