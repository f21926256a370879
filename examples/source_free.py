"""A trained model and new images, no source: python examples/source_free.py MODEL TARGET [OPTIONS]

MODEL is a folder of Hugging Face's save_pretrained, whose classes are those of TARGET/classes.yaml (or are the only
ones known).
"""

import sys
from pathlib import Path

import segshift


def main(model: str, target: str, *options: str) -> None:
    out = Path("runs/source-free")
    result = segshift.adapt(f"hf:{model}", target=target, method="iast", out=out, options=options)
    result.model.save_pretrained(out / "adapted")  # load it with transformers, as before


if __name__ == "__main__":
    main(*sys.argv[1:])
