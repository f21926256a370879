"""The words every floor of the house speaks: batches, outputs, predictions, methods.

Nothing here computes. Shapes: b images, k classes, h x w pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segshift.taxonomy import IGNORE as IGNORE


class Geometry(NamedTuple):
    """The resize, crop and flip that made one training image (sizes in pixels, height first)."""

    resized: tuple[int, int]
    """Size the whole image was resized to before cropping."""
    top: int
    left: int
    """Corner of the crop in the resized image."""
    size: tuple[int, int]
    """Size of the crop; where it exceeds the resized image, the rest is padding."""
    flip: bool
    """Mirrored left to right, after the crop."""
    slot: int = 0
    """The image's place in the global batch: (seed, step, slot) decides all that is drawn."""


class Images(NamedTuple):
    """Images of one domain, ready for a network."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]; a network normalises for itself."""
    label: Int[Tensor, "b h w"]
    """Class ids, or IGNORE."""
    name: tuple[str, ...]
    geometry: tuple[Geometry, ...] | None = None
    soft: Float[Tensor, "b k h w"] | None = None
    """Class probabilities that a round began with, cut like the image; 0 for every class where the image is padding."""


class Batch(NamedTuple):
    """What a training step sees. `target.label` is a pseudo-label, or IGNORE everywhere."""

    source: Images
    target: Images


class Prediction(NamedTuple):
    """Class probabilities of one image, at the image's own size."""

    name: str
    prob: Float[Tensor, "k h w"]
    embedding: Tensor | None = None


class Features(NamedTuple):
    """What a network shows of one whole image, at its own low resolution."""

    name: str
    maps: list[Tensor]
    """Logits (k, _, _) of each view, rounded to float16; flips are undone. The first view is the image at the first
    scale asked for, not mirrored."""
    embedding: Float[Tensor, "d h w"]
    """Per-pixel features of the first view, under the classifier; at the stride they have there."""
    size: tuple[int, int]
    """Working size of the image (h, w)."""
    align_corners: bool = False
    """How the network's logits are brought to another size."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over the views at full size: softmaxes, or logits whose softmax is taken then."""


class Output(NamedTuple):
    """What a network shows: all that a paper may look at."""

    logits: Float[Tensor, "b k h w"]
    """Class scores at the network's native stride."""
    stages: tuple[Tensor, ...] = ()
    """Encoder features, shallow to deep."""
    embedding: Tensor | None = None
    """Per-pixel features under the classifier."""
    auxiliary: Tensor | None = None
    """Scores of an auxiliary head, where there is one."""


Losses = dict[str, Tensor]
"""Named scalars; their sum is what is minimised."""


class OptimizerAndSchedule(NamedTuple):
    """An optimiser and the schedule that is stepped once after each of its steps."""

    optimizer: Optimizer
    schedule: LRScheduler


@runtime_checkable
class Scan(Protocol):
    """Predictions over a data set, in name order, any number of times.

    A plain list of `Prediction` serves wherever a Scan is asked for (one process, nothing to merge).
    """

    def __iter__(self) -> Iterator[Prediction]: ...

    def merge(self, partial: Tensor) -> Tensor:
        """Sum a tensor over all processes, in a fixed order."""
        ...


@runtime_checkable
class FeatureScan(Scan, Protocol):
    """A scan of a network's features: what clustering looks at."""

    def features(self) -> Iterator[Features]:
        """Logits and embedding of each image, in name order; the network runs anew each time."""
        ...

    def probabilities(self, found: Features, size: tuple[int, int]) -> Float[Tensor, "k h w"]:
        """Class probabilities at `size`, the average over the views of what `features` gave."""
        ...

    def through(self, model: nn.Module) -> FeatureScan:
        """The same images through another network; its logits are cached apart."""
        ...


Predictions = Scan | Iterable[Prediction]


@runtime_checkable
class LabelStore(Protocol):
    """Where a round's pseudo-labels are kept: written by `begin_round`, read by the sampler."""

    def write(self, name: str, label: Integer[Tensor, "h w"], predicted: Integer[Tensor, "h w"] | None = None) -> None:
        """Keep an image's pseudo-label; `predicted` is the class each pixel was predicted as, selected or not."""
        ...

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors that hold for the whole training (a prior), under a name."""
        ...

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """What was kept under a name; None where nothing was."""
        ...

    def write_soft(self, found: Features) -> None:
        """Keep an image's low-resolution logits: the sampler cuts `Images.soft` out of them, in this and later rounds
        (until a round keeps others)."""
        ...

    def read_soft(self, name: str, size: tuple[int, int], device: torch.device | None = None) -> Float[Tensor, "k h w"]:
        """Class probabilities of a whole image at `size`: of the logits kept last, by this round or an earlier one.

        They are computed on `device` (None: the processor)."""
        ...

    def write_view(self, kind: str, name: str, label: Integer[Tensor, "h w"]) -> None:
        """Keep one more label map of an image, to be looked at in the report: round-N/KIND/NAME.png."""
        ...

    def finish(self, thresholds: Mapping[str, Sequence[float]]) -> None:
        """Close the round: merge the counts over processes, write the statistics."""
        ...


@runtime_checkable
class Method(Protocol):
    """One paper. The engine calls `begin_round` once a round and `step` / `end_step` once a step.

    Laws of `step` (tested for every method): the number of yields does not depend on data; every
    forward with gradient since the last yield enters the losses of the next one; a mean over a region
    divides by the pixel count over all processes (`docs/methods.md` says where it does not).
    """

    def players(self) -> Mapping[str, nn.Module]:
        """What is trained, saved and wrapped for distribution: attribute name -> module."""
        ...

    def optimizers(self) -> Mapping[str, OptimizerAndSchedule]: ...

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None: ...

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """One yield is one backward pass."""
        ...

    def end_step(self, t: int) -> None:
        """After the optimiser step: moving averages and the like."""
        ...

    def end_round(self, n: int, scan: Scan, store: LabelStore) -> None:
        """After the last step of round n: what the method has to show of it. Changes nothing that is trained."""
        ...

    def measured(self) -> Mapping[str, Tensor]:
        """Scalars of the last step that are logged beside its losses, and not minimised."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is no module and must survive a kill: thresholds, banks, counters."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


Domain = Literal["source", "target"]


class MethodConfig(ABC):
    """A method's options: a frozen dataclass beside the method. What a recipe holds."""

    needs_oracle: ClassVar[bool] = False
    """Whether it trains on target labels: an upper bound, not adaptation."""

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Which domains' images a step looks at; the others are not even decoded."""
        return ("source", "target")

    @abstractmethod
    def build(self, model: nn.Module, steps: int, seed: int) -> Method:
        """The method around a model, for a training of `steps` steps in all."""
