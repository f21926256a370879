"""Trained models that nobody trained: small networks with random weights that tell classes apart."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from segshift.models.network import Network, TrainedModel, save_model
from segshift.models.small import SmallNet
from segshift.taxonomy import LabelSpace, unnamed

NETWORK = SmallNet(width=4, dilations=(1,))


def trained(space: LabelSpace | None = None, short_side: int | None = None, network: Network = NETWORK) -> TrainedModel:
    """A network of 5 classes, or of a label space, whose labels of random images are not all one class."""
    space = space or unnamed(5)
    torch.manual_seed(0)
    model = network.build(len(space))
    for name, parameter in model.named_parameters():
        if name.startswith("classifier") and parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.5)
    return TrainedModel(model.eval(), space, short_side)


def saved(folder: Path, space: LabelSpace | None = None, network: Network = NETWORK) -> Path:
    """The folder of such a model."""
    model = trained(space, network=network)
    save_model(folder, network, model.network.state_dict(), model.space, model.short_side)
    return folder
