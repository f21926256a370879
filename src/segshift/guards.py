"""What a run looks at of itself as it trains: blank batches, numbers that are not finite, a model worse than chance.

No target label is used. What is said of it is in `findings`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segshift.data.dataset import LabelledDataset
from segshift.data.sampling import Stream, generator
from segshift.errors import RunError, TrainingError
from segshift.findings import Chance, Finding, blank_finding, round_findings
from segshift.parts.processes import sum_over_processes
from segshift.parts.sharded import is_shared, own_part, whole
from segshift.run_folder import Run
from segshift.scan import Views, evaluating, predict_label, unwrapped
from segshift.types import IGNORE, Batch, OptimizerAndSchedule

# --- batches --------------------------------------------------------------------------------------------------------


class Blanks:
    """Counts the steps of a round in which no pixel of a domain has a label, on any process.

    `domains`: those that the round trains on labels of ("source", "target"); of others, 255 everywhere is as it
    should be.
    """

    def __init__(self, domains: Iterable[str]) -> None:
        self.domains = tuple(domains)
        self.steps = 0
        self.blank = dict.fromkeys(self.domains, 0)

    def labelled(self, batch: Batch) -> list[int]:
        """Pixels with a label in each domain of this process's batch; to be summed over processes for `add`."""
        return [int((getattr(batch, domain).label != IGNORE).sum()) for domain in self.domains]

    def add(self, labelled: Sequence[float]) -> list[str]:
        """Count a step by the pixels with a label in each domain, over all processes; the domains that have none."""
        found = [domain for domain, pixels in zip(self.domains, labelled, strict=True) if pixels == 0]
        self.steps += 1
        for domain in found:
            self.blank[domain] += 1
        return found

    def findings(self, where: str) -> list[Finding]:
        """To be said once, at the round's end. `where`: which round, such as "adaptation, round 2"."""
        found = (blank_finding(where, domain, count, self.steps) for domain, count in self.blank.items())
        return [finding for finding in found if finding is not None]


# --- numbers --------------------------------------------------------------------------------------------------------


def require_finite(
    players: Mapping[str, nn.Module],
    t: int,
    optimizers: Mapping[str, OptimizerAndSchedule] | None = None,
    state: Mapping[str, Any] | None = None,
    way_back: Callable[[], str] | None = None,
) -> None:
    """Raise TrainingError where a number that a checkpoint before step t would hold is NaN or infinite.

    It names the first such tensor: a player's weights and buffers (BatchNorm statistics), then what its optimiser
    keeps, then the method's own state. `way_back` gives the text that ends the error; it is only asked for then.
    One reduction a tensor and one wait for the device. Where tensors are shared out, the processes meet, and all raise
    the same error.
    """
    named = [item for name, player in players.items() for item in _of_player(name, unwrapped(player))]
    for name, entry in (optimizers or {}).items():
        named.extend(_of_optimizer(name, entry, players.get(name)))
    named.extend(_nested("the method's state", state or {}))
    named = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    shared = is_shared(tensor for _, tensor in named)
    # The largest magnitude of all: it is NaN where one number is, and no sum that could overflow.
    parts = [part for _, tensor in named if (part := own_part(tensor)).numel()]
    wrong_here = ~torch.isfinite(nn.utils.get_total_norm(parts, float("inf")))
    if not bool(sum_over_processes(wrong_here.long()) if shared else wrong_here):
        return
    if shared:
        named = [(name, whole(tensor)) for name, tensor in named]
    name, tensor = next((name, tensor) for name, tensor in named if not bool(torch.isfinite(tensor).all()))
    wrong = tensor[~torch.isfinite(tensor)]
    text = (
        f"after step {t - 1}: {name}: {len(wrong)} of {tensor.numel()} numbers are not finite (the first is "
        f"{float(wrong[0])}); expected finite numbers. No checkpoint is written of them."
    )
    raise TrainingError(text if way_back is None else f"{text} {way_back()}")


def cause(players: Mapping[str, nn.Module], batch: Batch) -> str:
    """Where a loss or gradient of a step that is not finite comes from, in a sentence: for the error that names it.

    From weights that were not finite before, from the pixels (or class probabilities) of images, which are named, or,
    where both are finite, from the step itself. Of what is shared out, this process looks at its part alone: another
    one's loss may be finite, and it would not come here.
    """
    for name, player in players.items():
        for inner, weight in unwrapped(player).named_parameters():
            if not bool(torch.isfinite(own_part(weight)).all()):
                return f"Weight {inner} of {name} was not finite before: the step before it is the one that overflowed."
    odd: dict[str, None] = {}
    for images in (batch.source, batch.target):
        for tensor in (images.image, images.soft):
            finite = [] if tensor is None else tensor.isfinite().flatten(1).all(1).tolist()
            odd |= {name: None for name, is_finite in zip(images.name, finite, strict=False) if not is_finite}
    if odd:
        return f"Pixels or soft labels that are not finite: of {', '.join(odd)}."
    return "All weights and pixels are finite: the step itself overflowed."


def _of_player(name: str, player: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for kind, tensors in (("weight", player.named_parameters()), ("buffer", player.named_buffers())):
        for inner, tensor in tensors:
            yield f"{kind} {inner} of {name}", tensor.detach()


def _of_optimizer(name: str, entry: OptimizerAndSchedule, player: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    known = {} if player is None else {id(p): inner for inner, p in unwrapped(player).named_parameters()}
    for parameter, kept in entry.optimizer.state.items():
        for key, value in kept.items():
            if isinstance(value, Tensor):
                yield f"{key} of weight {known.get(id(parameter), '?')} in the optimiser of {name}", value


def _nested(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nested(f"{name}[{key!r}]", inner)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _nested(f"{name}[{i}]", inner)


# --- a model --------------------------------------------------------------------------------------------------------


def measure_chance(
    model: nn.Module, source: LabelledDataset, short_side: int | None, seed: int, images: int = 16
) -> Chance:
    """The model's mean class accuracy on up to `images` source images, drawn by the seed: honest of target labels.

    Every process that asks sees the same images and has the same answer. DataError where a file cannot be read.
    """
    drawn = generator(seed, Stream.ENGINE, _KEY).permutation(len(source.names))[:images]
    indices = sorted(int(i) for i in drawn)
    k = len(source.space)
    right, total = torch.zeros(k, dtype=torch.int64), torch.zeros(k, dtype=torch.int64)
    network = unwrapped(model)
    with evaluating(network):
        for index in indices:
            label = source.label(index)
            size = (label.shape[0], label.shape[1])
            predicted = predict_label(network, source.image(index), size, short_side, Views())
            seen = label[label != IGNORE].long()
            total += torch.bincount(seen, minlength=k)
            right += torch.bincount(label[(label == predicted) & (label != IGNORE)].long(), minlength=k)
    occurs = [i for i in range(k) if total[i]]
    accuracy = {source.space.classes[i]: int(right[i]) / int(total[i]) for i in occurs}
    return Chance(tuple(source.names[i] for i in indices), accuracy)


_KEY = 8
"""Of the images that chance is measured on, in the engine's stream."""


# --- a finished run -------------------------------------------------------------------------------------------------


def run_warnings(run: Run) -> list[str]:
    """All that a run's files say is wrong with it, in the order it happened, for its report.

    Raises RunError where `chance.json` is there and cannot be read.
    """
    found = [*_chance(run), *_rounds(run)]
    return [finding.text for finding in found]


def _chance(run: Run) -> Iterator[Finding]:
    path = run.path / "chance.json"
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); delete the file") from error
    finding = Chance.from_dict(content, str(path)).finding()
    if finding is not None:
        yield finding._replace(text=f"warm-up: {finding.text}")


def _rounds(run: Run) -> Iterator[Finding]:
    blanks = _blank_of_log(run.log)
    said = {"adaptation": run.rounds, "distillation": run.distilled}
    for phase in dict.fromkeys([*(phase for phase, _ in blanks), *said]):
        before = None
        statistics = {s["round"]: s for s in said.get(phase, ())}
        counted = {n for name, n in blanks if name == phase}
        for n in sorted(counted | statistics.keys()):
            if n in statistics:
                for finding in round_findings(statistics[n], before, run.space):
                    yield finding._replace(text=f"{phase}, {finding.text}")
                before = statistics[n]
            yield from blanks.get((phase, n), [])


def _blank_of_log(log: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Finding]]:
    """(phase, round) -> what is said of its batches without labels."""
    steps: dict[tuple[str, int], int] = {}
    blank: dict[tuple[str, int], dict[str, int]] = {}
    for line in log:
        key = (line["phase"], line["round"])
        steps[key] = steps.get(key, 0) + 1
        for domain in line.get("blank", ()):
            counts = blank.setdefault(key, {})
            counts[domain] = counts.get(domain, 0) + 1
    return {
        key: [f for domain, n in sorted(counts.items()) if (f := blank_finding(_where(key), domain, n, steps[key]))]
        for key, counts in blank.items()
    }


def _where(key: tuple[str, int]) -> str:
    return f"{key[0]}, round {key[1]}"
