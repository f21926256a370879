"""The self-labelling head of CPSL: Eq. 4's scores, and the prototypes it starts from (Eq. 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segshift.data.sampling import Stream, generator
from segshift.parts.exact_sums import ExactSum
from segshift.scan import evaluating
from segshift.types import IGNORE

Similarity = Literal["linear", "cosine"]
"""linear: products with the head's weights, as printed. cosine: with the weights normalised (released)."""


class SelfLabellingHead(nn.Module):
    """f_SL: scores of normalised features, one weight vector a class (a prototype), without bias."""

    def __init__(self, width: int, num_classes: int, similarity: Similarity, seed: int) -> None:
        """`width`: channels of a feature. The weights start at random, from the seed alone (the row w/o Init)."""
        super().__init__()
        self.similarity: Similarity = similarity
        rng = generator(seed, Stream.ENGINE, 7)
        # As nn.Linear does, but from a generator of our own.
        drawn = rng.uniform(-1, 1, (num_classes, width)) / width**0.5
        self.weight = nn.Parameter(torch.tensor(drawn, dtype=torch.float32))

    def forward(self, features: Float[Tensor, "... d"]) -> Float[Tensor, "... k"]:
        return self.scores(features)

    def scores(self, features: Float[Tensor, "... d"]) -> Float[Tensor, "... k"]:
        """f_SL(z) of Eq. 4. To be called where nothing is trained: it is no forward of a distributed module."""
        weight = F.normalize(self.weight, dim=1) if self.similarity == "cosine" else self.weight
        return features @ weight.T


def normalise(embedding: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h w d"]:
    """z_i / ||z_i||_2 of each pixel, channels last."""
    return F.normalize(embedding.movedim(1, -1).float(), dim=-1)


def score_map(head: nn.Module, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b k h w"]:
    """The head's scores of each pixel, channels first."""
    return head(features).movedim(-1, 1)


def assignment(scores: Float[Tensor, "b k h w"], temperature: float) -> Float[Tensor, "b k h w"]:
    """P_SL: Eq. 4 at every pixel."""
    return (scores / temperature).softmax(1)


class Prototypes:
    """Mean normalised feature of each class, Eq. 7: class sums over images, in any order, merged over processes."""

    def __init__(self, num_classes: int, width: int) -> None:
        """`width`: channels of a feature."""
        self._sums = ExactSum(num_classes, width)
        self._counts = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, features: Float[Tensor, "h w d"], label: Int[Tensor, "h w"]) -> None:
        """One image: its normalised features and the class of each of them (Y_ST); IGNORE is none."""
        count = len(self._counts)
        given = label.reshape(-1) != IGNORE
        classes = label.reshape(-1)[given].cpu()
        one_hot = F.one_hot(classes, count).double()
        self._sums.add(one_hot.T @ features.reshape(-1, features.shape[-1])[given].double().cpu())
        self._counts += torch.bincount(classes, minlength=count)

    def mean(self, merge: Callable[[Tensor], Tensor]) -> Float[Tensor, "k d"]:
        """z̄_c; zero for a class without pixels.

        Its scores are 0 then, below those of classes whose features are alike, until training moves it.
        """
        counts = merge(self._counts).double()
        return (self._sums.total(merge) / counts.clamp(min=1)[:, None]).float()


def embedding_width(model: nn.Module) -> int:
    """Channels of the per-pixel features that a network shows."""
    side = max(32, int(getattr(model, "minimum_size", 1)))
    device = next(model.parameters()).device
    with evaluating(model):
        embedding = model(torch.zeros(1, 3, side, side, device=device)).embedding
    assert embedding is not None, f"{type(model).__name__} shows no embedding to cluster"
    return int(embedding.shape[1])
