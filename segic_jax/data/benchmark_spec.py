"""What is to be known about a benchmark before its data are read; each file of `sources/` has one or more."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segic_jax.errors import DataError

Kind = Literal["episodes", "video", "semseg"]


@dataclass(frozen=True)
class CheckLine:
    """One line of `segic data check`."""

    what: str  # "images in val2014"
    found: int | str
    needed: int | str | None = None  # None where any number will do
    problem: str = ""  # one sentence with the mend; also set where found is not what is needed


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark of the field."""

    name: str  # as --benchmark takes it
    title: str  # one line: what it is, whose
    kind: Kind
    protocols: tuple[str, ...]  # the first is the default
    layout: str  # what --data-root must hold, a path or two a line
    download: str  # where it is got
    domain: str  # the data set whose images and classes it shares, for the in-domain flag: "coco"
    open: Callable[[Path | None], Any]  # the source of a --data-root; None where none is needed
    check: Callable[[Path], list[CheckLine]]  # counts and names, without reading the images
    folds: int = 1
    needs_root: bool = True
    shots: tuple[int, ...] = ()  # the numbers of shots it is drawn for; empty for any

    def require_drawn(self, protocol: str, folds: Iterable[int], shots: int) -> None:
        """Raise DataError for episodes that it has none of."""
        if protocol not in self.protocols:
            raise DataError(f"{self.name} is drawn for {', '.join(self.protocols)}, not for {protocol}.")
        for fold in folds:
            if not 0 <= fold < self.folds:
                raise DataError(
                    f"--fold {fold}: {self.name} has folds 0 to {self.folds - 1}; give one of them."
                )
        if shots < 1 or (self.shots and shots not in self.shots):
            known = ", ".join(map(str, self.shots)) or "1 or more"
            raise DataError(f"--shots {shots}: {self.name} is drawn for {known}.")
