"""Segshift: unsupervised domain adaptation for semantic segmentation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segshift.adaptation import Adapted as Adapted
    from segshift.adaptation import adapt as adapt
    from segshift.models.network import TrainedModel as TrainedModel
    from segshift.models.network import load_model as load_model
    from segshift.prediction.predicting import predict_image as predict_image

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The names above, when they are first asked for: torch takes seconds, which `segshift --help` has no need of."""
    if name in ("adapt", "Adapted"):
        from segshift import adaptation

        return getattr(adaptation, name)
    if name in ("load_model", "TrainedModel"):
        from segshift.models import network

        return getattr(network, name)
    if name == "predict_image":
        from segshift.prediction.predicting import predict_image

        return predict_image
    raise AttributeError(f"module 'segshift' has no attribute {name!r}")
