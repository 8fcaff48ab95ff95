"""Describe a benchmark before its data are read; each file of `sources/` defines one or more."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segic_jax.errors import DataError

Kind = Literal["episodes", "video", "semseg"]


@dataclass(frozen=True)
class CheckLine:
    """Hold one line of the report of `segic data check`."""

    what: str  # "images in val2014"
    found: int | str
    needed: int | str | None = None  # None for any number
    problem: str = ""  # one sentence with the fix, if there is one to give
    note: str = ""  # what was handled, where nothing is to be fixed


@dataclass(frozen=True)
class BenchmarkSpec:
    """Describe a benchmark: what it is, what its folder must hold, and how to open and check it."""

    name: str  # as --benchmark takes it
    title: str  # one line
    kind: Kind
    protocols: tuple[str, ...]  # the first is the default
    layout: str  # what --data-root must hold, line by line
    download: str  # where to get it
    domain: str  # the data set that its images and classes come from, for the in-domain flag: "coco"
    open: Callable[[Path | None], Any]  # makes the source of a --data-root
    check: Callable[[Path], list[CheckLine]]  # checks counts and names without reading the images
    folds: int = 1
    needs_root: bool = True
    shots: tuple[int, ...] = ()  # the supported numbers of shots; empty for any

    def require_drawn(self, protocol: str, folds: Iterable[int], shots: int) -> None:
        """Raise DataError for a protocol, fold or number of shots that the benchmark does not have."""
        if protocol not in self.protocols:
            raise DataError(
                f"{self.name} has no protocol {protocol}: choose from {', '.join(self.protocols)}."
            )
        for fold in folds:
            if not 0 <= fold < self.folds:
                existing = "only fold 0" if self.folds == 1 else f"folds 0 to {self.folds - 1}"
                raise DataError(f"--fold {fold}: {self.name} has {existing}; give another one.")
        if shots < 1 or (self.shots and shots not in self.shots):
            allowed = ", ".join(map(str, self.shots)) or "1 or more"
            raise DataError(f"--shots {shots}: {self.name} supports {allowed}.")
