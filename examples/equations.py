"""The papers' equations by themselves, without a data set or a training: python examples/equations.py"""

import torch

from segshift.methods.category_adaptive import centroids, entropy_thresholds, select
from segshift.methods.cbst import class_thresholds, pseudo_labels
from segshift.methods.cpsl import class_counts, sinkhorn
from segshift.methods.iast import InstanceAdaptiveSelector
from segshift.types import IGNORE, Prediction


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [(2 * torch.randn(3, 8, 8, generator=generator)).softmax(0) for _ in range(4)]
    scan = [Prediction(f"image {i}", prob) for i, prob in enumerate(maps)]  # a plain list serves as a scan

    thresholds = class_thresholds(scan, portion=0.2, num_classes=3)  # CBST, Algorithm 2
    labels = pseudo_labels(maps[0], thresholds)  # Eq. 8
    print("CBST: thresholds", thresholds.tolist(), "labelled", float((labels != IGNORE).float().mean()))

    selector = InstanceAdaptiveSelector(num_classes=3)  # IAST, Algorithm 1: thresholds follow the images
    for prob in maps:
        labels = selector.select(prob)
        print("IAST: thresholds", selector.thresholds.tolist(), "labelled", float((labels != IGNORE).float().mean()))

    entropies = entropy_thresholds(centroids(scan, num_classes=3), delta=0.1)  # category-adaptive, Eq. 1 to 3
    labels = select(maps[0], entropies)
    print("category-adaptive: entropies", entropies.tolist(), "labelled", float((labels != IGNORE).float().mean()))

    scores = torch.randn(12, 3, generator=generator)
    marginal = torch.tensor([0.5, 0.25, 0.25])
    print("CPSL: samples a class", class_counts(marginal, 12).tolist())  # Eq. 9
    print("CPSL: mass a class", sinkhorn(scores, marginal).sum(0).tolist())  # Eq. 6


if __name__ == "__main__":
    main()
