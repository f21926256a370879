"""A trained model on an array, without a run: python examples/predict_arrays.py MODEL IMAGE

MODEL is RUN/model, copied anywhere, or what `segshift export --format model` wrote.
"""

import sys

import numpy as np
from PIL import Image

import segshift


def main(model: str, image: str) -> None:
    trained = segshift.load_model(model)
    pixels = np.asarray(Image.open(image).convert("RGB"))  # uint8 (h, w, 3)
    label = np.asarray(segshift.predict_image(trained, pixels).label)  # uint8 (h, w), ids of trained.space.classes
    for index, share in enumerate(np.bincount(label.ravel(), minlength=len(trained.space)) / label.size):
        print(f"{trained.space.classes[index]}: {100 * share:.1f} % of the image")


if __name__ == "__main__":
    main(*sys.argv[1:])
