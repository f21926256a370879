"""The options of `segshift adapt`: where the data is, and any field of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from segshift.data.data_config import MINICITY, DataConfig
from segshift.data.intake import OnBadFile
from segshift.data.layouts import FOLDER, parse
from segshift.data.translation import Translation
from segshift.errors import ConfigError
from segshift.recipe import Recipe
from segshift.recipe_names import WARMUPS


@dataclass(frozen=True)
class AdaptOptions:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    source: str | None = None
    """Labelled source: LAYOUT:DIR for a public data set (such as gta5:DIR), a folder, or minicity."""
    target: str | None = None
    """Unlabelled target, likewise (such as cityscapes:DIR). A semi-supervised recipe divides the source instead."""
    translated: str | None = None
    """Folder of translated source images, by the names of the source's; labels are those of the source."""
    translate: Literal["fourier", "lab"] | None = None
    """Translate source images while training, each towards a drawn target image: fourier (FDA: low-frequency
    amplitudes swapped) or lab (mean and spread of colours matched)."""
    out: Path | None = None
    """Folder of the run; default: runs/RECIPE."""
    warmup: str | None = None
    """What the adaptation starts from: source-only, adaptsegnet, adaptsegnet-ls, advent, minent or style-gap, trained
    first; or a finished run, the model folder of one, or a file of weights (all that is left then is the recipe's last
    phase: the adaptation, or the distillation). Default: the recipe's own."""
    model: str | None = None
    """Your own model: hf:FOLDER or hf:NAME (Hugging Face), smp:ARCHITECTURE/ENCODER (segmentation_models_pytorch),
    timm:BACKBONE (ConvNeXt, DINOv2, ...), or FILE.py:FUNCTION, a function of yours that returns a torch.nn.Module."""
    trained: bool | None = None
    """Whether that model segments these classes already, and stands for the warm-up; default: a FILE.py's does, and a
    Hugging Face model whose head has as many classes; else it is trained on the source first."""
    retain: bool | None = None
    """IAST, category-adaptive: keep the losses of the warm-up in self-training, or (False) leave them out."""
    oracle: Path | None = None
    """A finished oracle run, shown beside this one in the report."""
    seed: int | None = None
    """Decides all that is random."""
    threads: int | None = None
    """CPU threads to compute with."""
    variant: Literal["paper", "released"] = "paper"
    """released: the details of the authors' code where they change results (docs/methods.md lists them)."""
    weights: str | None = None
    """Weights of the backbone: a safetensors file, pretrained (downloaded by timm), or none."""
    on_bad_file: OnBadFile | None = None
    """Files that cannot be used: stop before the first step and list them (the default), or skip: go without them, and
    list them in the run and its report."""
    max_pixels: int | None = None
    """Pixels (height times width) that an image may hold, for files you trust; default: 89478485."""
    select: Literal["last", "entropy", "information", "snd", "source"] | None = None
    """Which model the run ends with, chosen without target labels: docs/choosing.md. Default: that of the last step."""
    dry_run: bool = False
    """Train nothing: check the data, try a few steps of each phase, and say what the run would take."""
    student: str | None = None
    """What the student of a distillation starts from: a file of self-supervised weights of its backbone; timm:NAME
    (other weights of timm's); random; or pretrained (those of --weights: a file, else timm's)."""


def apply(options: AdaptOptions, named: Recipe | None = None) -> Recipe:
    """The recipe with the short options put in; `named` is it as it was before any option. ConfigError where one
    does not fit, or would not be looked at.
    """
    recipe = options.recipe
    _refuse_unread_steps(recipe, named or recipe)
    settings, network = recipe.settings, recipe.network
    data = _data(options, recipe)
    if options.seed is not None:
        settings = replace(settings, seed=options.seed)
    if options.select is not None:
        settings = replace(settings, select=options.select)
    if options.threads is not None:
        settings = replace(settings, threads=options.threads)
    if options.weights is not None:
        if not hasattr(network, "weights"):
            raise ConfigError(
                f"weights = {options.weights}: {type(network).__name__} has no backbone to load them into"
            )
        network = replace(network, weights=options.weights)  # pyright: ignore[reportCallIssue]
    recipe = replace(recipe, data=data, settings=settings, network=network)
    if options.student is not None:
        recipe = _with_student(recipe, options.student)
    return recipe if options.translate is None else _translating(recipe, options.translate, options.warmup)


def _with_student(recipe: Recipe, restart: str) -> Recipe:
    """The recipe with the weights of its student. ConfigError where it has none."""
    if recipe.distillation is None:
        raise ConfigError(f"student = {restart}: recipe {recipe.name} distils no student; leave the option out")
    return replace(recipe, distillation=replace(recipe.distillation, restart=restart))


def given_model(warmup: str | None) -> Path | None:
    """The model that `--warmup` names; None where it names a warm-up to train, or nothing."""
    return None if warmup is None or warmup in WARMUPS else Path(warmup)


def _data(options: AdaptOptions, recipe: Recipe) -> DataConfig:
    """Source and target put in. ConfigError where one is missing, or none is wanted."""
    data = recipe.data
    if data.source is None:
        if options.source is not None:
            raise ConfigError(f"source = {options.source}: recipe {recipe.name} is source-free; leave the option out")
        source, source_layout = None, data.source_layout
    else:
        source, source_layout = place(options.source or data.source, data.source_layout)
    target, target_layout = place(options.target or data.target, data.target_layout)
    semi_supervised = data.labelled_share is not None
    if semi_supervised:
        if options.target is not None:
            raise ConfigError(
                f"target = {options.target}: recipe {recipe.name} is semi-supervised, its unlabelled images are the "
                "rest of the source; leave the option out"
            )
        target, target_layout = source or "", source_layout
    data = replace(
        data, source=source, source_layout=source_layout, target=target, target_layout=target_layout,
        translated=options.translated or data.translated, on_bad_file=options.on_bad_file or data.on_bad_file,
        max_pixels=data.max_pixels if options.max_pixels is None else options.max_pixels,
    )  # fmt: skip
    wanted = [] if source or source is None else [f"--source {_words(source_layout)}"]
    wanted += [] if target or semi_supervised else [f"--target {_words(target_layout)}"]
    if wanted:
        raise ConfigError(f"recipe {recipe.name} needs {' and '.join(wanted)}")
    if source is not None and (source == MINICITY) != (target == MINICITY):
        raise ConfigError(f"source is {source}, target is {target}; expected two folders, or minicity twice")
    if MINICITY in (source, target) and not recipe.name.startswith("minicity/"):
        raise ConfigError(f"recipe {recipe.name} needs --source DIR and --target DIR")
    return data


def _translating(recipe: Recipe, kind: Literal["fourier", "lab"], warmup: str | None) -> Recipe:
    """The recipe with a translation in every phase that it trains on source images. ConfigError where there is none."""
    only = [recipe.last[0]] if given_model(warmup) is not None else [name for name, _ in recipe.phases()]
    found: dict[str, Any] = {
        name: replace(phase, translation=replace(phase.translation or Translation(), kind=kind))
        for name, phase in recipe.phases()
        if name in only and phase.rounds and "source" in phase.method.domains
    }
    if recipe.data.source is None or not found:
        trained = "" if given_model(warmup) is None else "from the given model on, "
        raise ConfigError(
            f"translate = {kind}: {trained}recipe {recipe.name} trains on no source image; leave the option out"
        )
    return replace(recipe, **found)


def _refuse_unread_steps(recipe: Recipe, named: Recipe) -> None:
    """Steps are worked out from the epochs where these are given: an option for both would be passed over."""
    before = dict(named.phases())
    for name, phase in recipe.phases():
        if phase.target_epochs is not None and name in before and phase.steps != before[name].steps:
            raise ConfigError(
                f"{name}.steps = {phase.steps}: this recipe counts its rounds in passes over the target "
                f"({name}.target_epochs = {phase.target_epochs:g}); set --{name}.target-epochs None too, or that alone"
            )


def place(text: str, layout: str) -> tuple[str, str]:
    """(path, layout) of LAYOUT:PATH; `layout`, that of the recipe, where the text names none."""
    named, path = parse(text)
    if path == MINICITY:
        return path, FOLDER
    return path, layout if path == text else named


def _words(layout: str) -> str:
    return "DIR" if layout == FOLDER else f"{layout}:DIR"
