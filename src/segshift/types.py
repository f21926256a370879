"""The words every floor of the house speaks: batches, outputs, predictions, methods.

Nothing here computes. Shapes: b images, k classes, h x w pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

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


class Batch(NamedTuple):
    """What a training step sees. `target.label` is a pseudo-label, or IGNORE everywhere."""

    source: Images
    target: Images


class Prediction(NamedTuple):
    """Class probabilities of one image, at the image's own size."""

    name: str
    prob: Float[Tensor, "k h w"]
    embedding: Tensor | None = None


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
