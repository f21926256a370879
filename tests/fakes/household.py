"""A first process and its two children, each of which behaves as told: what `tests/test_children.py` starts.

    python -m tests.fakes.household FIRST CHILD CHILD FOLDER

No torch is loaded, so a case takes a second. A child that is not ended by the package lies there for a minute.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from segshift.children import STARTED_BY, Children, Parent
from segshift.errors import DataError, StoppedError

LONG = 60.0
GRACE = 0.5


def child(what: str, rank: int) -> None:
    parent = Parent(rank, GRACE)
    match what:
        case "is-killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "says":
            parent.leave(DataError(f"photo-{rank}.png: cannot be read"), broken=False)
        case "loses-another":
            time.sleep(0.3)
            parent.leave(RuntimeError("gloo: connection closed by peer"), broken=True)
        case "fails":
            sys.exit(3)
        case "is-wrong":
            parent.leave(ZeroDivisionError("a fault in the program"), broken=False)
        case "stops":
            parent.leave(StoppedError("asked to"), broken=False)
        case "sleeps":
            time.sleep(LONG)
        case "ends":
            pass


def first(what: str, others: int) -> int:
    children = Children(({"CHILD": str(rank)} for rank in range(1, others + 1)), GRACE)
    (FOLDER / "children").write_text(" ".join(str(c.process.pid) for c in children.all))
    match what:
        case "asks":
            fate = children.fate(10.0)
            children.end(GRACE)
            print(f"error: {fate}" if fate else "all well", file=sys.stderr)
            return 1 if fate else 0
        case "sleeps":
            children.folder = FOLDER
            time.sleep(LONG)
        case "is-killed":
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        case "saves":
            time.sleep(3 * GRACE)
            print("saved", file=sys.stderr)
    return 0


if __name__ == "__main__":
    FOLDER = Path(sys.argv[-1])
    if STARTED_BY in os.environ:
        own = int(os.environ["CHILD"])
        child(sys.argv[1 + own], own)
    else:
        sys.exit(first(sys.argv[1], len(sys.argv) - 3))
