"""Kills real runs, resumes them, and compares them with runs that were left alone.

    python -m tests.faults.killing --kills 200 --seed 1

goes through all methods in turn, kills each run at drawn places and at random moments until there were so many kills,
and prints a table: place x method -> kills survived. It ends with an error at the first run that comes out another.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fakes.folder import make_folder_pair
from tests.faults.aims import Aim
from tests.faults.comparing import assert_same_files, assert_whole
from tests.faults.runs import Job, make

METHODS = (
    "source-only", "adaptsegnet", "advent", "cbst", "cbst-sp", "category-adaptive", "iast", "cpsl", "cpsl-distill",
)  # fmt: skip
"""Rows of the tables: each seed method, and what writes files of its own."""

MOMENT = "random moment"

Kill = Aim | float
"""At an aim; or from outside, after so many seconds."""


class Reference(NamedTuple):
    """A run that was left alone."""

    job: Job
    passed: Counter[str]
    """How often it passed each place."""
    seconds: float

    def draw(self, place: str, rng: random.Random) -> Kill:
        """A call of a place, one as probable as another; a moment between start and end for MOMENT."""
        return rng.uniform(0, self.seconds) if place == MOMENT else Aim(place, rng.randint(1, self.passed[place]))


def left_alone(job: Job) -> Reference:
    """Make a run without touching it."""
    ended = make(job, job.folder)
    assert ended.status == 0, ended.said
    return Reference(job, ended.passed, ended.seconds)


def killed_and_resumed(reference: Reference, folder: Path, kills: Iterable[Kill]) -> list[Kill]:
    """Kill a run again and again, unless it ends before; then let it end. Gives the kills that happened.

    `folder` has the name of the reference's, which the report prints. AssertionError where a file that has its name
    is not whole, or where the run does not end as the one that was left alone.
    """
    job, happened = reference.job.at(folder), []
    for kill in kills:
        ended = make(job, folder, aim=kill) if isinstance(kill, Aim) else make(job, folder, after=kill)
        if not ended.killed:
            assert ended.status == 0, ended.said
            break
        happened.append(kill)
        assert_whole(folder, reference.job.folder)
    ended = make(job, folder)
    assert ended.status == 0, ended.said
    assert_same_files(folder, reference.job.folder)
    return happened


# --- a campaign ------------------------------------------------------------------------------------------------------


def campaign(folder: Path, kills: int, seed: int) -> Counter[tuple[str, str]]:
    """Kill runs of all methods in turn, at all places in turn, until there were so many kills.

    (place, method) -> kills that happened.
    """
    rng, survived = random.Random(seed), Counter[tuple[str, str]]()
    domains = make_folder_pair(folder / "domains", images=3)
    references = [left_alone(Job(row, *domains, folder / "alone" / row)) for row in METHODS]
    places = {reference.job.row: _in_turn(reference, rng) for reference in references}
    for reference in itertools.cycle(references):
        row = reference.job.row
        again = folder / "killed" / row
        # One kill a run hits every place that is passed; of a chain, the later kills hit what resumes.
        length = rng.choice((1, 1, 1, 6))
        plan = [reference.draw(place, rng) for place in itertools.islice(places[row], length)]
        try:
            happened = killed_and_resumed(reference, again, plan)
        except BaseException:
            print(f"{row} after {sum(survived.values())} kills: {plan}")
            raise
        survived.update((_group(kill), row) for kill in happened)
        shutil.rmtree(again)
        if sum(survived.values()) >= kills:
            return survived
    return survived


def _in_turn(reference: Reference, rng: random.Random) -> Iterator[str]:
    """The places of a run in random order, again and again, and random moments in between."""
    while True:
        for place in rng.sample(sorted(reference.passed), len(reference.passed)):
            yield place
            if rng.random() < 1 / 3:
                yield MOMENT


def _group(kill: Kill) -> str:
    """The row of the table: what was written or done, without how far it was."""
    return kill.place.split(",")[0] if isinstance(kill, Aim) else MOMENT


def table(survived: Counter[tuple[str, str]]) -> str:
    """Places down, methods across, sums at the end."""
    places = sorted({place for place, _ in survived})
    rows = [["", *METHODS, "all"]]
    for place in [*places, "all"]:
        counts = [sum(n for (p, m), n in survived.items() if place in (p, "all") and m == row) for row in METHODS]
        rows.append([place, *(str(count or "") for count in [*counts, sum(counts)])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description="kill runs, resume them, compare them")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        survived = campaign(Path(folder), options.kills, options.seed)
    print(table(survived))
    print(f"{sum(survived.values())} kills survived, seed {options.seed}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
