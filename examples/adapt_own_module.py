"""A network of one's own, adapted in one call: python examples/adapt_own_module.py SOURCE TARGET [OPTIONS]"""

import sys
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

import segshift


class Net(nn.Module):
    """Any network from normalised images to class scores will do; this one is random, and so trained first."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Conv2d(32, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.encoder(image))


def main(source: str, target: str, *options: str) -> None:
    out = Path("runs/own-module")
    result = segshift.adapt(
        Net(classes=5), source=source, target=target, method="cbst", out=out, trained=False, options=options
    )
    if result.scores is not None and result.before is not None:
        print(f"mIoU {result.before.mean_iou():.3f} -> {result.scores.mean_iou():.3f}; see {out / 'report.html'}")
    save_file(result.model.state_dict(), out / "adapted.safetensors")  # the network's own names


if __name__ == "__main__":
    main(*sys.argv[1:])
