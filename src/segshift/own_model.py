"""A model that the user brings: what `--model` names, the recipe that fits it, and its run.

`hf:NAME`, `smp:ARCHITECTURE/ENCODER`, `timm:BACKBONE`, `FILE.py:FUNCTION`; or a `torch.nn.Module` at hand. A trained
one stands for the warm-up: it is written into the run's folder, which from then on needs the original no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models import huggingface
from segshift.models.backbone import is_transformer
from segshift.models.deeplab import DeepLabV3Plus
from segshift.models.huggingface import HuggingFace
from segshift.models.network import Network, save_model, without_weights
from segshift.models.segmenter import Segmenter
from segshift.models.smp import SegmentationModels
from segshift.models.vision_transformer import VisionTransformer
from segshift.models.wrapped import OwnModule
from segshift.own_module import WAYS, module_of
from segshift.parts.batch_norm import batch_norm_layers
from segshift.phase import Phase
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.run_data import open_all
from segshift.runs import start
from segshift.taxonomy import CITYSCAPES, LabelSpace, distinct_colors
from segshift.warmups import last_alone

_DESCRIBED = {"mean", "std", "stages", "encoder"}
"""What can be said of a module at hand: fields of `OwnModule`."""
_FINE_TUNED = 0.2
"""Learning rates of pretrained transformers, as a share of those of convolutions: 6e-5 where those have 3e-4, which is
what SegFormer (Xie et al., NeurIPS 2021) and DAFormer train them with."""


@dataclass(frozen=True)
class Given:
    """A model as it was brought, before the data's classes are known."""

    network: Network
    trained: bool | None
    """Whether it segments the data's classes already. None: it does if its weights hold a head of as many classes."""
    classes: tuple[str, ...] | None = None
    """Their names, in the order of its scores, where it knows them."""
    tensors: Mapping[str, Tensor] | None = None
    """Its weights, where `network` does not bring them."""


def named(spec: str, trained: bool | None = None) -> Given:
    """The model of `--model`. ConfigError where there is no such model.

    `trained`: in place of what is usual for its kind: whole checkpoints of Hugging Face and modules of the user's are
    trained, networks of smp and timm are not.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise ConfigError(f"model = {spec!r}; expected {WAYS}")
    if kind == "hf":
        described = huggingface.described(rest)
        return Given(huggingface.network_of(rest), trained, described.classes)
    if kind == "smp":
        architecture, _, encoder = rest.partition("/")
        return Given(SegmentationModels(architecture, encoder or "resnet34"), trained or False)
    if kind == "timm":
        plain = is_transformer(rest)
        network = VisionTransformer(rest) if plain else DeepLabV3Plus(rest, aspp_channels=128)
        return Given(replace(network, weights="pretrained"), trained or False)
    return Given(OwnModule(spec, module=module_of(spec)), True if trained is None else trained)


def around(module: nn.Module, trained: bool = True, **options: Any) -> Given:
    """A module at hand; `options`: fields of `OwnModule`. One of transformers is known by its own config."""
    unknown = sorted(set(options) - _DESCRIBED)
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: says nothing of a module; expected {', '.join(sorted(_DESCRIBED))}")
    found = huggingface.network_around(module) if trained and set(options) <= {"mean", "std"} else None
    if found is not None:
        network = replace(found.network, **options)
        return Given(network, True, found.classes, module.state_dict())
    return Given(OwnModule(type(module).__name__, module=module, **options), trained)


# --- the recipe --------------------------------------------------------------------------------------------------


def fitted(recipe: Recipe, given: Given) -> Recipe:
    """The recipe with the user's network, and learning rates for it; of a trained one, images of their own size."""
    recipe = replace(recipe, network=given.network)
    if isinstance(given.network, (HuggingFace, VisionTransformer)):
        recipe = _changed(recipe, _slowed)
    return replace(recipe, data=replace(recipe.data, short_side=None)) if given.trained else recipe


def _changed(recipe: Recipe, change: Any) -> Recipe:
    phases: dict[str, Any] = {name: change(phase) for name, phase in recipe.phases()}
    return replace(recipe, **phases)


def _slowed(phase: Phase) -> Phase:
    return replace(phase, method=_slower(phase.method))


def _slower(method: Any) -> Any:
    changes: dict[str, Any] = {}
    if hasattr(method, "optimizer"):
        changes["optimizer"] = replace(method.optimizer, lr=_FINE_TUNED * method.optimizer.lr)
    if getattr(method, "retain", None) is not None:
        changes["retain"] = _slower(method.retain)
    return replace(method, **changes)


def _without_adabn(phase: Phase) -> Phase:
    return replace(phase, adabn_before="none", adabn_after="none")


def start_from(
    given: Given, recipe: Recipe, folder: Path, oracle: Path | None = None, begin: Callable[..., Any] = start
) -> Any:
    """Run a recipe on the user's model in a new folder, and return what `begin` does: of `runs.start`, that folder.

    `begin`: called as `runs.start` is; another one is `dry_run`.

    Raises ConfigError where the model's classes are not the data's, or the recipe needs what it does not have; and as
    `runs.start`.
    """
    reporter = Reporter()
    data = open_all(recipe, space=_space(given))
    space = data.domains.space
    _require_head(given, len(space))
    _require_classes(given, space)
    torch.manual_seed(recipe.settings.seed)
    network = (recipe.network if given.tensors is None else without_weights(recipe.network)).build(len(space))
    if given.tensors is not None:
        body_of(network).load_state_dict(given.tensors)
    if not batch_norm_layers(network):
        recipe = _refuse_adabn(_changed(recipe, _without_adabn))
    if recipe.last[0] == "warmup" or not _is_trained(given, len(space)):
        if recipe.data.source is None:
            raise ConfigError(
                f"recipe {recipe.name} has no source, and the model is not trained on these {len(space)} classes; "
                "expected a trained model, or a source to train it on"
            )
        reporter.say("the model is trained on the source first, for it has no head for these classes yet")
        return begin(recipe, folder, None, oracle, data)
    reporter.say("the model stands for the warm-up: it is scored as it is, then adapted")
    if (folder / "run.json").exists():
        return begin(recipe, folder, folder, oracle, data)  # refused there, before anything is written
    save_model(folder / "given", recipe.network, network.state_dict(), space, recipe.data.short_side)
    return begin(last_alone(recipe), folder, folder / "given", oracle, data)


def _is_trained(given: Given, num_classes: int) -> bool:
    if given.trained is not None or not isinstance(given.network, HuggingFace):
        return bool(given.trained)
    return huggingface.whole(given.network.name, num_classes)


def _require_head(given: Given, num_classes: int) -> None:
    """ConfigError where a model is said to be trained, and would get a new, random head for these classes."""
    if not given.trained or not isinstance(given.network, HuggingFace):
        return
    head = huggingface.head_of(given.network)
    if head != num_classes or (given.tensors is None and not huggingface.whole(given.network.name, num_classes)):
        raise ConfigError(
            f"trained = True: the model has no trained head for the data's {num_classes} classes (it is for {head}); "
            "expected one: merge or drop classes with a class map (--data.class-map), or leave trained out and name a "
            "source, on which a new head is trained first"
        )


def _refuse_adabn(recipe: Recipe) -> Recipe:
    name, phase = recipe.last
    if phase.rounds == 0 and name != "warmup":
        raise ConfigError(f"recipe {recipe.name}: the model has no BatchNorm whose statistics could be replaced")
    return recipe


def _space(given: Given) -> LabelSpace | None:
    """The classes that the model itself names."""
    if given.classes is None:
        return None
    if tuple(name.lower() for name in given.classes) == CITYSCAPES.classes:
        return CITYSCAPES
    return LabelSpace("the model", given.classes, distinct_colors(len(given.classes)))


def _require_classes(given: Given, space: LabelSpace) -> None:
    """ConfigError where the model and the data have as many classes, by other names or in another order."""
    if given.classes is None or len(given.classes) != len(space):
        return
    pairs = enumerate(zip(given.classes, space.classes, strict=True))
    wrong = [f"{index}: {own!r} for {name!r}" for index, (own, name) in pairs if _plain(own) != _plain(name)]
    if wrong:
        raise ConfigError(
            f"the model's classes are not the data's: {', '.join(wrong[:6])}{', ...' if len(wrong) > 6 else ''}; "
            "expected the same names in the same order: rename or reorder them with a class map (--data.class-map)"
        )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def body_of(network: Segmenter) -> nn.Module:
    """The user's own module in a network, or the network itself where it is one of ours."""
    body = getattr(network, "body", None)
    return body if isinstance(body, nn.Module) else network
