"""The data that a run trains on: both domains, opened."""

from __future__ import annotations

from dataclasses import dataclass

from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.errors import ConfigError
from segshift.taxonomy import LabelSpace


@dataclass(frozen=True)
class Domains:
    """The data of a run: a labelled source, and target images (for the oracle alone, a labelled target)."""

    source: LabelledDataset | None
    """None: the run starts from a trained model, and there is no source (source-free adaptation)."""
    target: Unlabelled | OracleTarget
    space: LabelSpace
    short_side: int | None = None
    """Working size of the images: their shorter side, in pixels. None: their own."""
    worked: Domains | None = None
    """The same domains, of which images and labels come at the working size, where they lie ready so."""

    def images(self, domain: str) -> ImageDataset:
        """The images of a domain. ConfigError where that is the source, and there is none."""
        return self.labelled() if domain == "source" else self.target

    def labelled(self) -> LabelledDataset:
        """The source. ConfigError where there is none."""
        if self.source is None:
            raise ConfigError(
                "this recipe looks at source images, and there is no source; give it one (--source DIR), or take a "
                "recipe that needs none, such as own/iast-source-free"
            )
        return self.source
