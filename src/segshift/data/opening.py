"""All data sets of a run, opened and read once: it stops at files that cannot be used, or the sets go without them.

What is left out is known only when everything has been read, and one set's faults are another's: a fold's images and
the others lie in one folder, and labels without names say the classes. So the sets are opened anew until nothing
changes; no file is decoded twice for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from segshift.data.contents import leaks
from segshift.data.data_config import MINICITY, DataConfig
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled, left_out
from segshift.data.doctor import Findings, Track, check, validate
from segshift.data.open_data import open_oracle, open_source, open_target, open_test, place_of
from segshift.data.sizes import Sizes
from segshift.errors import DataError
from segshift.taxonomy import LabelSpace

D = TypeVar("D", bound=ImageDataset)
Through = Callable[[Mapping[str, ImageDataset]], Mapping[str, ImageDataset]]
SHOWN = 5
"""Pairs of a leak that an error names."""


class Sets(NamedTuple):
    """The data sets of a run."""

    source: LabelledDataset | None
    target: Unlabelled | OracleTarget
    test: LabelledDataset | None
    space: LabelSpace

    def roles(self) -> dict[str, ImageDataset]:
        """Those that there are, by role."""
        every: dict[str, ImageDataset | None] = {"source": self.source, "target": self.target, "test": self.test}
        return {role: dataset for role, dataset in every.items() if dataset is not None}


def without_faults(
    opened: Callable[[Mapping[str, str]], D], track: Track | None = None, sizes: Sizes | None = None
) -> D:
    """A data set of which every file has been read, and which goes without those that cannot be used.

    `opened`: opens it without the images it is given (name -> why). DataError where none remains.
    """
    dataset = opened({})
    faults = _faults(check(dataset, track=track, sizes=sizes))
    return opened(faults) if faults else dataset


def _faults(findings: Findings) -> dict[str, str]:
    """Image -> what is wrong with it, or with its label; of several faults, the first."""
    return {problem.file: str(problem) for problem in reversed(findings.problems)}


class Opening:
    """Opens the sets of a config. `track`: role -> what shows the progress of reading its files; `sizes`: what the
    run can work on; `through`: the sets that are to be read, by role -> what reads their files for them."""

    def __init__(
        self,
        config: DataConfig,
        oracle: bool,
        track: Callable[[str], Track],
        sizes: Sizes | None = None,
        through: Through = dict,
    ) -> None:
        self.config, self.oracle, self.track, self.sizes, self.through = config, oracle, track, sizes, through
        self.notes: dict[str, list[str]] = {}
        """What is odd in a set's files but handled."""
        self._faults: dict[str, dict[str, str]] = {"source": {}, "target": {}, "test": {}}
        """Images that reading, or comparing, has shown to be unusable: role -> name -> why."""
        self._checked: dict[str, LabelSpace | None] = {}
        """The classes that a set's labels were read under."""
        self._opened: dict[str, dict[str, str]] = {}
        """What a set went without when it was last opened."""

    @property
    def skips(self) -> bool:
        """Whether files that cannot be used are left out."""
        return self.config.on_bad_file == "skip"

    def open(self, known: LabelledDataset | None, space: Callable[[], LabelSpace]) -> Sets:
        """The sets. `known`: the source, where it was opened and checked before. `space`: the classes where there is
        no source.

        DataError lists every bad file; or, where they are left out, says that none remains.
        """
        if self.skips:
            return self._open_without(space)
        source = known or self._source()
        classes = space() if source is None else source.space
        sets = Sets(source, self._target(classes), self._test(classes), classes)
        unread = {r: found for r, found in sets.roles().items() if not self._drawn(r) and found is not known}
        for role, dataset in self.through(unread).items():
            self.notes[role] = validate(dataset, role, self.track(role), self.sizes, self.config.check).notes
        self._compare(sets)
        return sets

    def _open_without(self, space: Callable[[], LabelSpace]) -> Sets:
        # A target that is not there is to be said before the source is read.
        open_target(self.config)
        while True:
            # Its own labels say the source's classes, so nothing that was read of it is judged anew.
            source = self._sound("source", None, self._source)
            classes = space() if source is None else source.space
            target = self._sound("target", classes, partial(self._target, classes))
            test = self._sound("test", classes, partial(self._test, classes))
            assert target is not None
            sets = Sets(source, target, test, classes)
            self._compare(sets)
            without = self._without()
            if all(without[role] == seen for role, seen in self._opened.items()):
                return sets

    def _drawn(self, role: str) -> bool:
        """Whether a set is drawn on demand, and has no files to check."""
        return place_of(self.config, "source" if role == "source" else "target").path == MINICITY

    def _source(self) -> LabelledDataset | None:
        return None if self.config.source is None else open_source(self.config, self._without())

    def _target(self, space: LabelSpace) -> Unlabelled | OracleTarget:
        without = self._without()
        return open_oracle(self.config, space, without) if self.oracle else open_target(self.config, without)

    def _test(self, space: LabelSpace) -> LabelledDataset | None:
        return open_test(self.config, space, self._without())

    def _without(self) -> dict[str, dict[str, str]]:
        """What each set goes without. Two that share a folder leave out the same: neither looks at the other's part."""
        shared: tuple[str, ...] = ()
        if self.config.folds:
            shared = ("target", "test")
        elif self.config.labelled_share is not None:
            shared = ("source", "target")
        together = {name: why for role in shared for name, why in self._faults[role].items()}
        return {role: dict(together if role in shared else found) for role, found in self._faults.items()}

    def _sound(self, role: str, space: LabelSpace | None, opened: Callable[[], D | None]) -> D | None:
        """A set of which every file has been read, without those that cannot be used."""
        self._opened[role] = self._without()[role]
        dataset = opened()
        if dataset is None or self._drawn(role) or (role in self._checked and self._checked[role] == space):
            return dataset
        read = self.through({role: dataset})[role]
        findings = check(read, track=self.track(role), sizes=self.sizes, most=self.config.check)
        self._checked[role], self.notes[role] = space, findings.notes
        if not findings.problems:
            return dataset
        self._faults[role] |= _faults(findings)
        self._opened[role] = self._without()[role]
        return opened()

    def _compare(self, sets: Sets) -> None:
        """Training images that are test images too, by their files' content: an error, or left out of training."""
        training: dict[str, ImageDataset | None] = {"source": sets.source}
        if not self.config.transductive:
            training["target"] = sets.target
        for role, dataset in training.items():
            pairs = [] if dataset is None or sets.test is None else leaks(dataset, sets.test)
            if pairs and not self.skips:
                raise _leak(role, pairs, sets)
            for name, image in pairs:
                why = f"{name}: its file has the content of {image} of the test set, which a model is scored on"
                self._faults[role].setdefault(name, why)


def _leak(role: str, pairs: list[tuple[str, str]], sets: Sets) -> DataError:
    shown = ", ".join(f"{name} = {image}" for name, image in pairs[:SHOWN])
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return DataError(
        f"{role}: {len(pairs)} of its images are test images too, by their files' content ({role} = test: {shown}"
        f"{more}); expected test images that training does not see. In {sets.roles()[role]!r} and {sets.test!r}: "
        "delete one of each pair, or leave them out of training with --on-bad-file skip"
    )


def left_out_lines(sets: Sets) -> dict[str, list[str]]:
    """Role -> files that the set goes without, each with the reason; sets that are whole are not named."""
    found = {role: list(left_out(dataset).values()) for role, dataset in sets.roles().items()}
    return {role: lines for role, lines in found.items() if lines}
