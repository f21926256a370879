"""What a recipe is: network, data, warm-up, adaptation and how to run them, as one frozen value.

It is written into `run.json` and read back from it: by names of fields, never by importing what a file says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import cattrs

from segshift.data.open_data import DataConfig
from segshift.errors import ConfigError, SegshiftError
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
from segshift.models.network import Network, register
from segshift.phase import Phase, Settings
from segshift.plain_values import reasons, take_exactly
from segshift.scan import Views
from segshift.taxonomy import shown
from segshift.types import MethodConfig

METHODS: tuple[type[MethodConfig], ...] = (
    SourceOnlyConfig, AdaptSegNetConfig, AdvEntConfig, MinEntConfig, StyleGapConfig, CBSTConfig, CategoryAdaptiveConfig,
    IASTConfig, CPSLConfig, DistillationConfig, OracleConfig,
)  # fmt: skip
"""The methods a saved recipe may name."""


@dataclass(frozen=True)
class Recipe:
    """A named experiment: all that decides its result, the data aside."""

    name: str
    label: str
    """The name of its row in a table."""
    network: Network
    warmup: Phase
    """Trains the network on the source: what every row of a table starts from."""
    alignment: Phase | None = None
    """A second warm-up, which sees target images too: adversarial training, before self-training (IAST, §4)."""
    adaptation: Phase | None = None
    """None: the warm-up is all there is."""
    distillation: Phase | None = None
    """Rounds that teach what was learned to a student of other first weights (CPSL, §4.2)."""
    data: DataConfig = field(default_factory=DataConfig)
    test: Views = field(default_factory=Views)
    """Views averaged when the test images are scored."""
    settings: Settings = field(default_factory=Settings)
    warmup_label: str = "source-only"
    alignment_label: str = ""
    adaptation_label: str = ""
    """What the adapted model is called, where a student of it is what the recipe is about."""

    def __post_init__(self) -> None:
        for name, phase in self.phases():
            if getattr(phase.method, "multi_level", False) and not getattr(self.network, "auxiliary", False):
                raise ConfigError(
                    f"{name}.method.multi_level = True: {type(self.network).__name__} has no auxiliary classifier; "
                    "expected DeepLabV2 with network.auxiliary = True, or multi_level = False"
                )

    def phases(self) -> tuple[tuple[str, Phase], ...]:
        """Name and phase, in order."""
        named = ((name, getattr(self, name)) for name in ("warmup", "alignment", "adaptation", "distillation"))
        return tuple((name, phase) for name, phase in named if phase is not None)

    @property
    def last(self) -> tuple[str, Phase]:
        """Name and phase of what the recipe is about: a given model stands for all that comes before it."""
        return self.phases()[-1]

    @property
    def smallest_side(self) -> int:
        """The shorter side that images need, in pixels at their working size, for the smallest scale looked at."""
        views = (self.test, *(phase.scan for _, phase in self.phases()))
        return math.ceil(self.network.minimum_size / min(1.0, *(scale for view in views for scale in view.scales)))

    def on(self, target_images: int) -> Recipe:
        """This recipe with the length of its rounds known, where they are counted in passes over the target."""
        known: dict[str, Any] = {name: phase.on(target_images) for name, phase in self.phases()}
        return replace(self, **known)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    take_exactly(converter)
    kinds = {method.__name__: method for method in METHODS}

    def structure_method(content: Any, _: object) -> MethodConfig:
        fields = dict(content)
        kind = fields.pop("kind", None)
        if kind not in kinds:
            raise ConfigError(f"method kind is {kind!r}; expected one of {', '.join(kinds)}")
        return converter.structure(fields, kinds[kind])

    def unstructure_method(method: MethodConfig) -> dict[str, Any]:
        return {"kind": type(method).__name__, **converter.unstructure(method, type(method))}

    converter.register_structure_hook_func(lambda t: t is MethodConfig, structure_method)
    converter.register_unstructure_hook_func(lambda t: t is MethodConfig, unstructure_method)
    register(converter)
    return converter


_CONVERTER = _converter()


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
    return _CONVERTER.unstructure(recipe, Recipe)


def from_dict(content: Any, origin: str) -> Recipe:
    """The recipe that `to_dict` wrote. ConfigError, naming `origin`, where a field is unknown or has a wrong value."""
    if not isinstance(content, dict):
        raise ConfigError(f"{origin}: the recipe cannot be read (found {shown(content)}); expected that of a run")
    try:
        return _CONVERTER.structure(content, Recipe)
    except (cattrs.BaseValidationError, SegshiftError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{origin}: the recipe cannot be read ({reasons(error)}). The file was changed, or is from another "
            "version: start the run again"
        ) from error
