"""What a training is told: a phase (which method, how long, on what views), and how the run is executed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from segshift.data.mining import Mining
from segshift.data.transforms import View
from segshift.data.translation import Translation
from segshift.errors import ConfigError
from segshift.scan import Views
from segshift.types import MethodConfig


@dataclass(frozen=True)
class Share:
    """The share of the source's images that a round trains on, drawn anew for each round; all of them by default."""

    initial: float = 1.0
    """In round 1. The release of CBST: 3 %."""
    step: float = 0.0
    """Added each round. The release: .25 %."""
    limit: float = 1.0
    """At most. The release: 6 %."""

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.limit <= 1 or self.step < 0:
            raise ConfigError(
                f"source share: initial = {self.initial}, step = {self.step}, limit = {self.limit}; "
                "expected 0 < initial <= limit <= 1, and a step of at least 0"
            )

    def at(self, n: int) -> float:
        """The share of round n = 1, 2, ..."""
        return round(min(self.limit, self.initial + self.step * (n - 1)), 10)


@dataclass(frozen=True)
class Phase:
    """One training: a method, for some rounds of some steps."""

    method: MethodConfig
    rounds: int = 1
    steps: int = 100
    """Optimiser steps a round."""
    target_epochs: float | None = None
    """Length of a round in passes over the target images: `steps` is then worked out from it. The CBST paper: 2."""
    batch: int = 4
    """Images of each domain a step, over all processes."""
    source_view: View = field(default_factory=View)
    target_view: View = field(default_factory=View)
    scan: Views = field(default_factory=Views)
    """How target images are predicted at the start of a round."""
    mining: Mining | None = None
    """Crop target images around rare classes; None: anywhere."""
    source_share: Share = field(default_factory=Share)
    """The share of the source that a round looks at."""
    translation: Translation | None = None
    """Translate each source image towards a drawn target image; None: source images are as they are."""
    fresh_optimizer: bool = False
    """Start each round with a new optimiser and schedule, as the release of CBST does."""
    restart: str | None = None
    """Weights that the network starts each round from, once it has predicted the target: random, pretrained, timm:NAME
    or a file (`restart.restart_weights`). None: it goes on with its own."""
    clip: float | None = None
    """Largest norm of the gradient; None: not clipped."""
    adabn_before: Literal["none", "source", "target"] = "none"
    """Whose images BatchNorm statistics are estimated on before the first step (AdaBN)."""
    adabn_after: Literal["none", "source", "target"] = "none"
    """Likewise after the last step."""
    adabn_batch: int = 8
    """Images a batch in those estimates."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or min(self.steps, self.batch, self.adabn_batch) < 1:
            raise ConfigError(
                f"rounds = {self.rounds}, steps = {self.steps}, batch = {self.batch}, "
                f"adabn_batch = {self.adabn_batch}; expected rounds >= 0 and the others >= 1"
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip = {self.clip}; expected a norm above 0, or None")
        if self.target_epochs is not None and not self.target_epochs > 0:
            raise ConfigError(f"target_epochs = {self.target_epochs}; expected a number above 0 (the CBST paper: 2)")
        if self.translation is not None and "source" not in self.method.domains:
            raise ConfigError(
                f"translation = {self.translation.kind}: {type(self.method).__name__} looks at no source image to "
                "translate; expected None"
            )
        if self.restart is not None and not (self.restart and self.fresh_optimizer):
            raise ConfigError(
                f"restart = {self.restart!r}, fresh_optimizer = {self.fresh_optimizer}; expected random, pretrained, "
                "timm:NAME or a file, and fresh_optimizer = True: other weights have no use for the momentum at hand"
            )
        for name in ("adabn_before", "adabn_after"):
            if getattr(self, name) not in ("none", "source", "target"):
                raise ConfigError(f"{name} = {getattr(self, name)!r}; expected none, source or target")

    @property
    def length(self) -> int:
        """Steps in all."""
        return self.rounds * self.steps

    def on(self, target_images: int) -> Phase:
        """This phase with `steps` worked out from `target_epochs`, where that is given."""
        if self.target_epochs is None:
            return self
        return replace(self, steps=math.ceil(self.target_epochs * target_images / self.batch))


_MOST_THREADS = 4096
"""More than any machine has: a slip of the finger would have the system refuse, or hang."""


@dataclass(frozen=True)
class Settings:
    """How a run is executed, whatever it trains."""

    seed: int = 0
    threads: int = 2
    """CPU threads a process computes with. Part of the recipe: kernels differ in the last bit between counts."""
    workers: int = 0
    """Data-loading processes."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    evaluate_rounds: bool = False
    """After each round too, score the test images, and the pseudo-labels where target_split has labels. Oracle figures:
    nothing is chosen by them."""
    checkpoint_share: float = 0.02
    """Write a checkpoint as often as costs at most this share of the time; 0: at each round's start only."""
    checkpoint_steps: int | None = None
    """Write one every so many steps instead."""
    keep: int = 2
    """Checkpoints kept."""
    on_bad_numbers: Literal["warn", "stop"] = "warn"
    """What is done where pseudo-labels collapse, a class vanishes from them, or a warm-up is no better than chance: say
    so and go on, or stop with the last checkpoint intact. A loss or weight that is no finite number always stops."""
    timeout: int = 1800
    """Seconds that a process waits for the others before the run ends with an error."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the networks: each holds all of them (DDP), or a part of each (FSDP)."""
    channels_last: bool = False
    """Keep images and features with their channels side by side in memory."""
    compile: bool = False
    """Let torch.compile rewrite the networks: minutes at the start, less time a step where it pays."""
    cache: str | None = None
    """A folder where decoded images and labels are kept, for this run and others; None: in memory, up to 1 GiB."""
    select: Literal["last", "entropy", "information", "snd", "source"] = "last"
    """Which model the run ends with: that of the last step, or the best by a score without target labels, of those at
    the end of the warm-up and of each round, and in between (docs/choosing.md)."""
    candidates_every: int | None = None
    """Score the model without target labels every so many steps too, and write candidates.jsonl; 0: only at the end of
    the warm-up and of each round. None: likewise where `select` chooses among them, else never."""
    candidates_images: int = 40
    """Target training images that a candidate is scored on, and at most so many held-out source images."""
    candidates_oracle: bool = False
    """Score each candidate on the test images too: for the picture beside its scores, nothing is chosen by it."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also write losses and figures for TensorBoard (RUN/tensorboard) or Weights & Biases (RUN/wandb, offline unless
    WANDB_MODE says otherwise)."""

    def __post_init__(self) -> None:
        for name in ("threads", "devices", "nodes", "keep", "timeout"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1")
        if self.seed >= 2**63 or self.threads > _MOST_THREADS:
            raise ConfigError(
                f"seed = {self.seed}, threads = {self.threads}; expected a seed below 2^63, and at most "
                f"{_MOST_THREADS} threads"
            )
        if self.seed < 0 or self.workers < 0 or not 0 <= self.checkpoint_share < 1:
            raise ConfigError(
                f"seed = {self.seed}, workers = {self.workers}, checkpoint_share = {self.checkpoint_share}; "
                "expected seed >= 0, workers >= 0, 0 <= checkpoint_share < 1"
            )
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise ConfigError(f"checkpoint_steps = {self.checkpoint_steps}; expected at least 1, or None")
        self._check_watching()
        if self.strategy not in ("ddp", "fsdp"):
            raise ConfigError(f"strategy = {self.strategy!r}; expected ddp or fsdp")
        if self.strategy == "fsdp" and self.devices * self.nodes == 1:
            raise ConfigError(
                f"strategy = fsdp, devices = {self.devices}, nodes = {self.nodes}: one process has nobody to share a "
                "network with; expected at least 2 devices, or ddp"
            )
        if self.on_bad_numbers not in ("warn", "stop"):
            raise ConfigError(f"on_bad_numbers = {self.on_bad_numbers!r}; expected warn or stop")
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ConfigError(
                f"precision = {self.precision!r}; expected 32-true or bf16-mixed (under float16 loss scaling "
                "two optimisers disturb each other, so 16-mixed is not offered)"
            )

    @property
    def scores_candidates(self) -> bool:
        """Whether models are scored without target labels on the way."""
        return self.select != "last" or self.candidates_every is not None

    def _check_watching(self) -> None:
        names = ("last", "entropy", "information", "snd", "source")
        if self.select not in names:
            raise ConfigError(f"select = {self.select!r}; expected one of {', '.join(names)}")
        if (self.candidates_every or 0) < 0 or self.candidates_images < 1:
            raise ConfigError(
                f"candidates_every = {self.candidates_every}, candidates_images = {self.candidates_images}; expected "
                "candidates_every >= 0 or None, and at least 1 image"
            )
        if self.candidates_oracle and not self.scores_candidates:
            raise ConfigError(
                "candidates_oracle = True, select = last, candidates_every = None: there are no candidates to score; "
                "set candidates_every too, such as 100"
            )
        for name in self.track:
            if name not in ("tensorboard", "wandb"):
                raise ConfigError(f"track = {name!r}; expected tensorboard or wandb")
