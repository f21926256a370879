"""What becomes of files that cannot be used: the run stops, or a data set goes without them and says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from segshift.data.files import MAX_PIXELS
from segshift.errors import ConfigError, DataError
from segshift.paths import fault

OnBadFile = Literal["stop", "skip"]
T = TypeVar("T")
_SHOWN = 5


@dataclass(frozen=True)
class FileRules:
    """How the files of a data set are read, and what becomes of those that cannot be used."""

    max_pixels: int = MAX_PIXELS
    """Pixels (height times width) that an image or a label may hold."""
    on_bad_file: OnBadFile = "stop"
    """stop: a file that cannot be used is an error. skip: the data set goes without it."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Images to go without, whatever the list of files says: name -> what is wrong, beginning with the file. They
    are those that were found unusable when they were read."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels = {self.max_pixels}; expected at least 1 (default: {MAX_PIXELS})")
        if self.on_bad_file not in get_args(OnBadFile):
            raise ConfigError(f"on_bad_file = {self.on_bad_file!r}; expected one of {', '.join(get_args(OnBadFile))}")

    @property
    def skips(self) -> bool:
        """Whether files that cannot be used are left out."""
        return self.on_bad_file == "skip"


class Intake:
    """Takes the images of a list of files in, or leaves them out."""

    def __init__(self, rules: FileRules | None = None) -> None:
        self.rules = rules or FileRules()
        self.listed: list[str] = []
        """All images there are, also those that are left out."""
        self.left_out: dict[str, str] = {}
        """Image -> what is wrong, beginning with the file."""

    def sees(self, names: Iterable[str]) -> None:
        """Enter all images of a list."""
        names = list(names)
        self.listed += names
        for name in names:
            if why := fault(name):
                self.refuse(
                    name, f"{name!r}: the image's name {why}; expected one that other files can bear: rename it"
                )
        self.left_out |= {name: self.rules.without[name] for name in names if name in self.rules.without}

    def refuse(self, name: str, why: str) -> None:
        """An image cannot be used: DataError with `why`, or it is left out."""
        if not self.rules.skips:
            raise DataError(why)
        self.left_out.setdefault(name, why)

    def taken(self, files: Mapping[str, T]) -> dict[str, T]:
        """Those of `files` (by the image's name) that are not left out. DataError where none remains."""
        kept = {name: found for name, found in files.items() if name not in self.left_out}
        if not kept:
            raise nothing_left(self.left_out)
        return kept


def told(what: str, left_out: Sequence[str], where: str) -> str:
    """In words, for the terminal: how many images of `what` are left out, the first of them, and where all stand."""
    first = "\n".join(f"  {line}" for line in left_out[:_SHOWN])
    more = f"\n  and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    return (
        f"{what}: left out {len(left_out)} image(s) that cannot be used (on_bad_file = skip; {where}):\n{first}{more}"
    )


def nothing_left(left_out: Mapping[str, str], of: str = "all") -> DataError:
    """The error that no image remains; `of` says which were looked at."""
    first = next(iter(left_out.values()), "")
    return DataError(
        f"{of} {len(left_out)} images cannot be used and are left out (on_bad_file = skip), so none remains; expected "
        f"at least 1. The first: {first}"
    )
