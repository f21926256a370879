"""Commands of `segshift` in a process of its own: what may hang, eat all memory, or needs another user's eyes.

`python -m tests.faults.apart [--user ID]` reads {"name": [words], …} as JSON and prints {"name": [code, text], …}. Each
command is ended after `bad_inputs.LIMIT` seconds, and none may take more than a gigabyte over what starting takes.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

from tests.faults.bad_inputs import Said, run

from segshift.cli import main

MEMORY = 2**30
ROOT = Path(__file__).resolve().parents[2]


def run_apart(commands: dict[str, list[str]], user: int | None = None) -> dict[str, Said]:
    """What each command says; `user`: with that user's rights (for root alone)."""
    words = [sys.executable, "-m", "tests.faults.apart", *([] if user is None else [str(user)])]
    done = subprocess.run(
        words, input=json.dumps(commands), capture_output=True, text=True, timeout=300, check=True, cwd=ROOT
    )
    return {name: Said(*said) for name, said in json.loads(done.stdout.splitlines()[-1]).items()}


def _main() -> None:
    # All that is imported is imported now: it takes its time, and another user may not be let read it.
    with redirect_stderr(io.StringIO()):
        main(["check", "no such folder"])
    if len(sys.argv) > 1:
        os.setuid(int(sys.argv[1]))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    said: dict[str, Said] = {}
    for name, words in json.load(sys.stdin).items():
        try:
            said[name] = run(*words)
        # Nothing may get as far as this: it is what the table is about.
        except BaseException as error:
            said[name] = Said(-1, f"{type(error).__name__}: {error}")
    print(json.dumps(said), flush=True)
    # A thread that waits for a pipe would keep the process from ending.
    os._exit(0)


if __name__ == "__main__":
    _main()
