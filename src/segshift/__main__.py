"""`python -m segshift`: what `torchrun -m segshift` starts."""

from __future__ import annotations

import sys

from segshift.cli import main

if __name__ == "__main__":
    sys.exit(main())
