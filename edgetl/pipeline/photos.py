"""The photos of a build, once they are checked, by what they are for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from edgetl.data import Check, Dataset, Item, balanced, hold_out, usable_photos
from edgetl.errors import DataError
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage

__all__ = ["Photos"]

# Share of the training photos that every choice is made on.
HELD_OUT = 0.1
# Photos that parity is measured on, at the most.
PARITY_PHOTOS = 128


@dataclass(frozen=True, kw_only=True)
class Photos:
    """All photos that were found, and the stage that checks them; what else is asked needs that done."""

    settings: BuildSettings
    dataset: Dataset
    check: Stage

    @cached_property
    def usable(self) -> Dataset:
        """The photos that can be read, less those of training that are measured on too, once the check stage is
        done."""
        return usable_photos(self.dataset, self.check.read("check", Check), self.settings.skip_bad)

    def refuse_bad(self) -> None:
        """Return if every photo can be read, or the bad ones are to be skipped; needs the check stage.

        Raises:
            DataError: names the bad photos.
        """
        _ = self.usable

    @property
    def train(self) -> tuple[Item, ...]:
        """Photos to train on."""
        return self._parted[0]

    @property
    def held(self) -> tuple[Item, ...]:
        """Photos held out of training, to choose by."""
        return self._parted[1]

    @property
    def unseen(self) -> tuple[Item, ...]:
        """Photos that nothing is chosen by."""
        return self.usable.of(self.usable.evaluation)

    @cached_property
    def _parted(self) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """The photos of training: those that train, those that are held out.

        Raises:
            DataError: no class has two of them, so nothing can be held out.
        """
        rest, held = hold_out(self.usable.of("train"), HELD_OUT, self.settings.seed)
        if not held:
            raise DataError(
                f"{self.settings.data}: every class has a single training photo, so none can be held out to choose by. "
                "Add photos: twenty a class is a good start"
            )
        return rest, held

    @property
    def kept(self) -> tuple[Item, ...]:
        """The photos that are kept decoded: those held out, then those that nothing is chosen by."""
        return (*self.held, *self.unseen)

    def rows_of(self, photos: Iterable[Item]) -> list[int]:
        """Return where photos stand in `kept`."""
        rows = {photo: row for row, photo in enumerate(self.kept)}
        return [rows[photo] for photo in photos]

    @property
    def proving(self) -> tuple[Item, ...]:
        """The held-out photos that artifacts are proved on."""
        return balanced(self.held, PARITY_PHOTOS, self.settings.seed)
