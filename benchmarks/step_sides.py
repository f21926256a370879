"""A training step in the ways that `step.py` compares: ours, executed in several, and as released code has it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from segshift.data.sampling import Feed, Steps, Stream, unchanged
from segshift.data.transforms import View
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import AdvEntConfig, MinEntConfig
from segshift.methods.category_adaptive import CategoryAdaptiveConfig
from segshift.methods.cbst import CBSTConfig
from segshift.methods.cpsl import CPSLConfig
from segshift.methods.distillation import DistillationConfig
from segshift.methods.iast import IASTConfig
from segshift.methods.oracle import OracleConfig
from segshift.methods.source_only import SourceOnlyConfig
from segshift.methods.style_gap import StyleGapConfig
from segshift.models.deeplab import DeepLabV2
from segshift.models.execution import prepared
from segshift.models.small import SmallNet
from segshift.parts import losses
from segshift.taxonomy import CITYSCAPES
from segshift.types import IGNORE, Batch, Images, Losses, MethodConfig

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
CLASSES = len(CITYSCAPES)
NETWORKS = {"deeplab-v2-resnet101": DeepLabV2("resnet101"), "small": SmallNet()}
METHODS: Mapping[str, MethodConfig] = {
    "source-only": SourceOnlyConfig(),
    "oracle": OracleConfig(),
    "cbst": CBSTConfig(augment=None),
    "iast": IASTConfig(),
    "category-adaptive": CategoryAdaptiveConfig(),
    "minent": MinEntConfig(),
    "adaptsegnet": AdaptSegNetConfig(),
    "advent": AdvEntConfig(),
    "style-gap": StyleGapConfig(),
    "cpsl": CPSLConfig(),
    "distillation": DistillationConfig(),
}
SOFT = ("cpsl", "distillation")
"""Methods that train on the class probabilities that a round began with."""
STORED = 1.25
"""Sides of the images in memory, over those of the crop."""


@dataclass(frozen=True)
class Way:
    """How a step is executed."""

    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    fused: bool = False
    banded: bool = False
    tuned: bool = False
    """cuDNN times its algorithms and takes the fastest. No setting of ours: it may choose others the next time."""


@dataclass
class Clock:
    """Seconds of each part of a step; of a GPU's, until the device is done with it."""

    device: str
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.add(name, started)

    def now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def add(self, name: str, started: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started

    @contextmanager
    def forward_of(self, network: nn.Module) -> Iterator[None]:
        """Its forwards are a part of their own, inside another."""
        started: list[float] = []
        before = network.register_forward_pre_hook(lambda *_: started.append(self.now()))
        after = network.register_forward_hook(lambda *_: self.add("forward", started.pop()))
        yield
        before.remove()
        after.remove()


# --- data ------------------------------------------------------------------------------------------------------------


class Stored:
    """A few images of noise, decoded, with labels in blocks of 16 pixels; a fifth of them is ignored."""

    space = CITYSCAPES

    def __init__(self, crop: tuple[int, int], count: int = 8) -> None:
        rng = np.random.default_rng(0)
        height, width = (math.ceil(STORED * side / 16) * 16 for side in crop)
        self.names = tuple(f"image_{i}" for i in range(count))
        self.pixels = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        blocks = rng.integers(0, CLASSES, (count, height // 16, width // 16))
        blocks[rng.random(blocks.shape) < 0.2] = IGNORE
        self.ids = blocks.astype(np.uint8).repeat(16, 1).repeat(16, 2)

    def image(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1).contiguous()

    def label(self, index: int) -> Tensor:
        return torch.from_numpy(self.ids[index])

    def fingerprint(self) -> str:
        return "noise"


def batches(crop: tuple[int, int], batch: int, workers: int, pin: bool) -> Iterator[Batch]:
    """Ours: scaled, cut and mirrored by what is drawn, as `feeding.batches` does it."""
    stored, view = Stored(crop), View(crop=crop, scale=(1.0, 1.2))
    short_side = min(stored.pixels.shape[1:3])
    feeds = [
        Feed(stored, stored.label, view, short_side, batch, stream, 0) for stream in (Stream.SOURCE, Stream.TARGET)
    ]
    steps = Steps(feeds[0], feeds[1], 0, 100_000)
    return iter(DataLoader(steps, batch_size=None, num_workers=workers, collate_fn=unchanged, pin_memory=pin))


class ReleasedData(Dataset[tuple[Tensor, Tensor]]):
    """Both domains' images as released code makes them: PIL, numpy, class by class, mean off, channels reversed."""

    def __init__(self, crop: tuple[int, int], batch: int) -> None:
        self.stored, self.crop, self.batch = Stored(crop), crop, batch

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(item)
        images, labels = zip(
            *(self._one(int(rng.integers(8)), bool(rng.random() < 0.5)) for _ in range(2 * self.batch))
        )
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))

    def _one(self, index: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        size = self.crop[1], self.crop[0]
        picture = Image.fromarray(self.stored.pixels[index]).resize(size, Image.Resampling.BICUBIC)
        classes = Image.fromarray(self.stored.ids[index]).resize(size, Image.Resampling.NEAREST)
        image, ids = np.asarray(picture, np.float32), np.asarray(classes, np.float32)
        label = np.full(ids.shape, IGNORE, np.float32)
        for number in range(CLASSES):
            label[ids == number] = number
        image = image[:, :, ::-1] - np.array((104.00698793, 116.66876762, 122.67891434), np.float32)
        if mirrored:
            image, label = image[:, ::-1], label[:, ::-1]
        return image.transpose(2, 0, 1).copy(), label.copy()


def on_device(batch: Batch, device: str, soft: bool) -> Batch:
    """A batch on the device; with class probabilities, at random."""

    def moved(images: Images) -> Images:
        image, label = (tensor.to(device, non_blocking=True) for tensor in (images.image, images.label))
        count, _, height, width = image.shape
        prob = torch.rand(count, CLASSES, height, width, device=device).softmax(1) if soft else None
        return images._replace(image=image, label=label, soft=prob)

    return Batch(moved(batch.source), moved(batch.target))


def fixed(crop: tuple[int, int], batch: int, device: str, soft: bool) -> Batch:
    """One batch, made at once."""
    return on_device(next(batches(crop, batch, 0, pin=False)), device, soft)


# --- ours ------------------------------------------------------------------------------------------------------------


class Ours:
    """A method around a network, and its step as the engine takes it."""

    def __init__(self, network: str, method: str, device: str, way: Way) -> None:
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = way.tuned
        losses.FULL_SIZE_BYTES = 0 if way.banded else 1 << 62
        self.device, self.soft, self._t = device, method in SOFT, 0
        model = NETWORKS[network].build(CLASSES).to(device)
        self.method: Any = METHODS[method].build(model, 100_000, 0)
        precision = "bf16-mixed" if way.bf16 else "32-true"
        self.fabric = Fabric(accelerator="cpu" if device == "cpu" else "cuda", devices=1, precision=precision)
        for name, player in self.method.players().items():
            player.to(memory_format=torch.contiguous_format)
            setattr(self.method, name, self.fabric.setup_module(prepared(player, way.channels_last, way.compile)))
        for entry in self.method.optimizers().values():
            for group in entry.optimizer.param_groups:
                group["fused"] = way.fused or None

    def step(self, batch: Batch, clock: Clock | None = None) -> None:
        clock = clock or Clock("cpu")
        entries = self.method.optimizers().values()
        for entry in entries:
            entry.optimizer.zero_grad()
        for found in self._losses(batch, clock):
            if not bool(torch.stack(list(found.values())).isfinite().all()):
                raise RuntimeError(f"step {self._t}: a loss is not finite: {found}")
            with clock.part("backward"):
                self.fabric.backward(torch.stack(list(found.values())).sum())
        with clock.part("optimiser"):
            for player in self.method.players().values():
                bool(nn.utils.get_total_norm([p.grad for p in player.parameters() if p.grad is not None]).isfinite())
            for entry in entries:
                entry.optimizer.step()
                entry.schedule.step()
            self.method.end_step(self._t)
        self._t += 1

    def _losses(self, batch: Batch, clock: Clock) -> Iterator[Losses]:
        steps = self.method.step(batch, self._t)
        while True:
            with clock.part("forward and loss"):
                found = next(steps, None)
            if found is None:
                return
            yield found


# --- as released -----------------------------------------------------------------------------------------------------


class Released:
    """Source labels and pseudo-labels, a backward pass each, as code of 2018 to 2020 writes it; one device, float32."""

    def __init__(self, network: str, device: str) -> None:
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.device = device
        self.network = NETWORKS[network].build(CLASSES).to(device, memory_format=torch.contiguous_format)
        for layer in self.network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        groups = self.network.parameter_groups(2.5e-4, 10.0)
        self.optimizer = torch.optim.SGD(groups, lr=2.5e-4, momentum=0.9, weight_decay=5e-4)

    def step(self, made: tuple[Tensor, Tensor]) -> None:
        images, labels = made
        self.optimizer.zero_grad()
        for image, label in zip(images.chunk(2), labels.chunk(2)):
            logits = self.network(image.to(self.device)).logits
            full = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=True)
            self._cross_entropy(full, label.long().to(self.device)).backward()
        self.optimizer.step()

    def _cross_entropy(self, predict: Tensor, target: Tensor) -> Tensor:
        """Labelled pixels picked out of the scores with a mask as large as these."""
        n, c, h, w = predict.shape
        mask = (target >= 0) & (target != IGNORE)
        predict = predict.transpose(1, 2).transpose(2, 3).contiguous()
        predict = predict[mask.view(n, h, w, 1).repeat(1, 1, 1, c)].view(-1, c)
        return F.cross_entropy(predict, target[mask])


# --- what is timed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is trained, and with what."""

    network: str
    method: str
    crop: tuple[int, int]
    batch: int
    device: str
    threads: int

    @property
    def images(self) -> int:
        """Of a step, of all domains."""
        return self.batch * len(METHODS[self.method].domains)


def our_step(case: Case, way: Way, workers: int | None) -> Callable[[], object]:
    """A step of ours on a batch that is there, or (with a number of loading processes) on the next one loaded."""
    ours = Ours(case.network, case.method, case.device, way)
    if workers is None:
        batch = fixed(case.crop, case.batch, case.device, ours.soft)
        return lambda: ours.step(batch)
    given = batches(case.crop, case.batch, workers, pin=case.device != "cpu")
    return lambda: ours.step(on_device(next(given), case.device, ours.soft))


def released_step(case: Case, workers: int) -> Callable[[], object]:
    released = Released(case.network, case.device)
    given = iter(DataLoader(ReleasedData(case.crop, case.batch), batch_size=None, num_workers=workers))
    return lambda: released.step(next(given))


def loss_side(case: Case, banded: bool) -> Callable[[], Tensor]:
    """Cross-entropy of scores brought to the crop's size and its gradient: at once, or in bands."""
    config, rng = NETWORKS[case.network], torch.Generator().manual_seed(0)
    stride = 8 if isinstance(config, DeepLabV2) else 4
    low = torch.randn(case.batch, CLASSES, *(math.ceil(side / stride) for side in case.crop), generator=rng)
    label = torch.randint(0, CLASSES, (case.batch, *case.crop), generator=rng).to(case.device)
    low = low.to(case.device).requires_grad_()

    def side() -> Tensor:
        losses.FULL_SIZE_BYTES = 0 if banded else 1 << 62
        loss = losses.upsampled_cross_entropy(low, label, config.align_corners)
        return torch.autograd.grad(loss, low)[0]

    return side


# --- ways ------------------------------------------------------------------------------------------------------------

ALONE = {
    "channels_last": Way(channels_last=True),
    "bf16 autocast": Way(bf16=True),
    "torch.compile": Way(compile=True),
    "fused optimiser": Way(fused=True),
    "banded losses": Way(banded=True),
    "tuned convolutions": Way(tuned=True),
}
TOGETHER = Way(bf16=True, channels_last=True, fused=True, banded=True)


def ways(device: str, compile: bool) -> dict[str, Way]:
    """Plain, each alone, and together: on a CPU in float32, and never compiled, which takes it minutes."""
    if device == "cpu":
        found = {"plain": Way(), **ALONE, "together, float32": replace(TOGETHER, bf16=False)}
        del found["tuned convolutions"]
    else:
        more = {"together, tuned": replace(TOGETHER, tuned=True), "together, compiled": replace(TOGETHER, compile=True)}
        found = {"plain": Way(), **ALONE, "together": TOGETHER, **more}
    return {name: way for name, way in found.items() if compile or not way.compile}
