"""Rows trained in a process of their own: python -m tests.fakes.again SOURCE TARGET WARMUP FOLDER ROW ..."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tests.fakes.tiny import tiny

from segshift.runs import start

if __name__ == "__main__":
    torch.set_num_threads(1)
    source, target, warmup, folder = map(Path, sys.argv[1:5])
    for row in sys.argv[5:]:
        start(tiny(row, source, target), folder / row, None if row == "source-only" else warmup)
