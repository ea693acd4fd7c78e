"""Asynchronous successive halving (ASHA, Li et al., 2020): who trains on; and the states of trainings beside a study."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from keras_mnasnet.utils.files import sweep, write_file

KEEP = 1 / 3
MOST_RUNGS = 20
MOST_BYTES = 4 * 2**30  # of states; those of the worst networks go first, and train anew should they be promoted after all
STATE = re.compile(r"(\d+)\.safetensors")


@dataclasses.dataclass(frozen=True, slots=True)
class Rungs:
    """`shares` of a recipe's steps at which networks are measured, rising to 1; the best `keep` of a rung go on to the next."""

    shares: tuple[float, ...]
    keep: float = KEEP

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip((0.0, *self.shares), self.shares, strict=False))
        if not (1 < len(self.shares) <= MOST_RUNGS and rising and self.shares[-1] == 1):
            raise ValueError(
                f"`rungs` must be 2 to {MOST_RUNGS} rising numbers of epochs, of which the last are all of the recipe's, or "
                f"rising shares of its steps up to 1. Received: rungs of {', '.join(f'{each:g}' for each in self.shares)} of "
                f"the recipe. Change the recipe's epochs with --set epochs=N."
            )
        if not 0 < self.keep < 1:
            raise ValueError(f"`keep` must be a share above 0 and below 1, as 1/3. Received: keep={self.keep:g}")

    @property
    def share(self) -> float:
        """Of the recipe's steps, that a network trains on average."""
        gaps = zip((0.0, *self.shares), self.shares, strict=False)
        return sum(self.keep**rung * (high - low) for rung, (low, high) in enumerate(gaps))

    def planned(self, networks: int) -> int:
        """How many trainings, each from one rung to the next, so many networks come to."""
        return sum(int(networks * self.keep**rung + 1e-9) for rung in range(len(self.shares)))


def parse_rungs(text: str | Sequence[float], keep: str | float | None, epochs: int | None) -> Rungs:
    """`1,2,5` epochs of a recipe's 5, or shares of its steps `0.2,0.4,1`; `keep` as `1/3` or a number."""
    try:
        values = [float(each) for each in (text.split(",") if isinstance(text, str) else text)]
        share = KEEP if keep is None else float(Fraction(keep) if isinstance(keep, str) else keep)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"`rungs` are numbers with commas, as 1,2,5, and `keep` is a share, as 1/3. Received: rungs={text!r}, keep={keep!r}"
        ) from error
    if values and max(values) > 1:
        if epochs is None:
            raise ValueError(f"Without a recipe `rungs` are shares of a training, up to 1. Received: rungs={text!r}")
        values = [each / epochs for each in values]
    return Rungs(tuple(values), share)


class Ladder:
    """What was measured at each rung, and who goes on: the best that is not promoted of the best `keep` of the highest rung.

    Results count in the order in which they are added, so the same results in the same order promote the same networks.
    """

    def __init__(self, rungs: Rungs) -> None:
        self.rungs = rungs
        self._all: list[list[tuple[float, int]]] = [[] for _ in rungs.shares]  # (-reward, trial), the best first
        self._waiting: list[list[tuple[float, int]]] = [[] for _ in rungs.shares]  # of these, the ones not promoted

    def add(self, trial: int, rung: int, reward: float | None, *, promoted: bool = False) -> None:
        """One more result; None of a failed trial, which goes nowhere."""
        entry = (math.inf if reward is None else -reward, trial)
        bisect.insort(self._all[rung], entry)
        if reward is not None and not promoted:
            bisect.insort(self._waiting[rung], entry)

    def promote(self) -> tuple[int, int] | None:
        """(trial, its next rung), which counts as promoted from now on; None where nobody goes on yet."""
        for rung in reversed(range(len(self._all) - 1)):
            if self._waiting[rung]:
                entry = self._waiting[rung][0]
                if bisect.bisect_left(self._all[rung], entry) < int(len(self._all[rung]) * self.rungs.keep + 1e-9):
                    del self._waiting[rung][0]
                    return entry[1], rung + 1
        return None

    def hopeful(self, networks: int) -> dict[int, float]:
        """{trial: reward} of those that may still be promoted in a search of so many networks."""
        found = {}
        for rung, waiting in enumerate(self._waiting[:-1]):
            places = math.ceil(networks * self.rungs.keep ** (rung + 1))
            last = self._all[rung][:places][-1:]
            found.update({trial: -value for value, trial in waiting if last and (value, trial) <= last[0]})
        return found


class States:
    """The states of trainings, in the folder FILE.states beside a study, which its one writer fills and sweeps."""

    def __init__(self, study: Path) -> None:
        self.folder = study.with_name(f"{study.name}.states")
        self._sizes: dict[int, int] = {}
        if self.folder.is_dir():
            sweep(self.folder)
            found = [(STATE.fullmatch(each.name), each) for each in self.folder.iterdir()]
            self._sizes = {int(match[1]): each.stat().st_size for match, each in found if match}

    def path(self, trial: int) -> Path:
        return self.folder / f"{trial}.safetensors"

    def write(self, trial: int, content: bytes) -> None:
        """Keep the state of a trial; OSError for a full disk."""
        self.folder.mkdir(exist_ok=True)
        write_file(self.path(trial), content)
        self._sizes[trial] = len(content)

    def read(self, trial: int) -> bytes | None:
        """The state of a trial; None where it is not kept."""
        path = self.path(trial)
        kept = trial in self._sizes and path.is_file() and path.stat().st_size <= MOST_BYTES
        return path.read_bytes() if kept else None

    def keep(self, needed: Iterable[int], hopeful: dict[int, float], most: int = MOST_BYTES) -> None:
        """Remove what is neither `needed` nor `hopeful`, and of the hopeful the worst, until `most` bytes are left."""
        needed = set(needed)
        for trial in self._sizes.keys() - needed - hopeful.keys():
            self._remove(trial)
        left = sum(self._sizes.values())
        for trial in sorted(self._sizes.keys() - needed, key=lambda each: (hopeful[each], -each)):
            if left <= most:
                break
            left -= self._sizes[trial]
            self._remove(trial)
        if not self._sizes and self.folder.is_dir():
            with contextlib.suppress(OSError):  # something else is in it
                self.folder.rmdir()

    def _remove(self, trial: int) -> None:
        self.path(trial).unlink(missing_ok=True)
        del self._sizes[trial]
