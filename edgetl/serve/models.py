"""The models that are served, by name: loaded, proved on their golden photos, replaced in one step, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from edgetl.bundle import Artifact, Bundle
from edgetl.runtime import GoldenResult, Predictor, open_session, replay_golden
from edgetl.serve.batcher import Batcher
from edgetl.serve.replies import RefusedError
from edgetl.serve.settings import ServeSettings
from edgetl.serve.tuning import choose

__all__ = ["Model", "Models"]

# Digits of a build's hash that name a version.
DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A bundle that answers: its name, its version (of the build's hash), and what runs it."""

    name: str
    version: str
    predictor: Predictor
    batcher: Batcher
    golden: GoldenResult | None

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers."""
        return self.predictor.bundle

    @property
    def artifact(self) -> Artifact:
        """What answers."""
        return self.predictor.session.artifact

    def replay(self) -> GoldenResult | None:
        """Return how the golden photos fare now; raises as `replay_golden` does."""
        return replay_golden(self.predictor.bundle, self.predictor.session)

    def close(self) -> None:
        """Answer what waits, then give everything back."""
        self.batcher.close()
        self.predictor.close()


class Models:
    """The table of models; everything but loading and draining happens on the event loop's thread."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._table: dict[str, Model | None] = dict.fromkeys(settings.bundles)
        self._unloaded: set[str] = set()
        self._locks = {name: asyncio.Lock() for name in settings.bundles}
        self.default = next(iter(settings.bundles))

    def __iter__(self) -> Iterator[Model]:
        return iter([model for model in self._table.values() if model is not None])

    @property
    def names(self) -> tuple[str, ...]:
        """The names that can be loaded."""
        return tuple(self._table)

    @property
    def is_ready(self) -> bool:
        """Whether every model answers that nobody has unloaded."""
        return all(model is not None or name in self._unloaded for name, model in self._table.items())

    def is_full(self, name: str) -> bool:
        """Say whether the model of that name would refuse one more request; of what is not there, no."""
        model = self._table.get(name)
        return model is not None and model.batcher.is_full

    def get(self, name: str, version: str | None = None) -> Model:
        """Return the model of that name.

        Raises:
            RefusedError: there is none, it is not loaded, or its version is another.
        """
        if name not in self._table:
            raise RefusedError(
                404, "unknown", f"no model is called {name[:64]!r} here. Known: {', '.join(self._table)}"
            )
        model = self._table[name]
        if model is None:
            raise RefusedError(404, "unknown", f"model {name} is not loaded")
        if version is not None and version != model.version:
            raise RefusedError(404, "unknown", f"model {name} has version {model.version}, not {version[:64]!r}")
        return model

    async def load(self, name: str) -> Model:
        """Return the model of that name, read anew from its folder and proved; the one before answers until then.

        Raises:
            BundleError: the folder holds no bundle, or a damaged one; the one before goes on.
            MissingError: its engine or device is not here; likewise.
            ParityError: it answers its golden photos otherwise than in the build; likewise.
            RefusedError: no folder is known by that name.
        """
        if name not in self._table:
            self.get(name)
        async with self._locks[name]:
            model = await asyncio.to_thread(_open, name, self._settings)
            before, self._table[name] = self._table[name], model
            self._unloaded.discard(name)
            if before is not None:
                await asyncio.to_thread(before.close)
            return model

    async def unload(self, name: str) -> None:
        """Let nothing new reach a model, answer what it has accepted, and give it back.

        Raises:
            RefusedError: there is none of that name.
        """
        if name not in self._table:
            self.get(name)
        async with self._locks[name]:
            before, self._table[name] = self._table[name], None
            self._unloaded.add(name)
            if before is not None:
                await asyncio.to_thread(before.close)

    async def close(self) -> None:
        """Unload all."""
        for name in self._table:
            await self.unload(name)


def _open(name: str, settings: ServeSettings) -> Model:
    """Return a model that has answered its golden photos as it must; raises as `Models.load` does."""
    bundle = Bundle.open(settings.bundles[name])
    tuning = choose(settings, bundle)
    predictor = Predictor(bundle, open_session(bundle, tuning.threads, settings.fallback, build_plan=True))
    try:
        golden = replay_golden(predictor.bundle, predictor.session)
    except BaseException:
        predictor.close()
        raise
    return Model(
        name=name,
        version=predictor.bundle.manifest.build[:DIGITS],
        predictor=predictor,
        batcher=Batcher(predictor.session, tuning.workers, settings.queue, tuning.batch, tuning.delay_ms / 1000),
        golden=golden,
    )
