"""Writes bundles in one step and reads them with suspicion."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edgetl.bundle.atomic import atomic_folder, write_file
from edgetl.bundle.manifest import SCHEMA, Artifact, FileEntry, Manifest
from edgetl.errors import BundleError
from edgetl.records import ModelContent

__all__ = ["Bundle", "check_output", "sha256_of", "write_bundle"]

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle on disk: its folder and what it says about itself."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Return the bundle in a folder; only its manifest is read.

        Raises:
            BundleError: no bundle there, a manifest that cannot be read, or one of another schema version.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            inside = sorted(str(each.parent) for each in folder.glob(f"[!.]*/{MANIFEST}"))
            if inside:
                raise BundleError(f"{folder}: not a bundle, but a folder that holds bundles: {', '.join(inside)}")
            found = "a folder without manifest.json" if folder.is_dir() else "no such folder"
            raise BundleError(
                f"{folder}: not a bundle ({found}). Make one with: edgetl build --data PHOTOS --out BUNDLE"
            )
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise BundleError(
                f"{path}: {where}: {first['msg']}. This edgetl reads manifests of schema {SCHEMA}; "
                "build the bundle again, or use the version of edgetl that made it"
            ) from error
        return cls(folder=folder, manifest=manifest)

    def read(self, name: str) -> bytes:
        """Return the content of a file that the manifest lists, after checking its hash.

        Raises:
            BundleError: the file is not listed, missing, a link, outside the folder, or not what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.folder}: {name} is not listed in the manifest")
        path = self.folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(
                f"{path}: {'is a link' if path.is_symlink() else 'is missing'}. Copy the whole bundle again"
            )
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BundleError(f"{path}: leads out of the bundle, which holds its own files only. Do not trust it")
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != entry.sha256:
            raise BundleError(
                f"{path}: damaged or changed: sha256 is {found[:12]}..., the manifest says {entry.sha256[:12]}.... "
                "Copy the whole bundle again"
            )
        return content

    def read_model(self, artifact: Artifact) -> ModelContent:
        """Return what the engine loads; raises as `read` does."""
        return ModelContent(
            graph=self.read(artifact.path), weights=self.read(artifact.weights) if artifact.weights else None
        )

    def check_files(self) -> int:
        """Return the number of files, after checking that each is as listed and that there is no other.

        Raises:
            BundleError: a file is damaged, missing, a link, or not listed.
        """
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                raise BundleError(f"{path}: is a link. A bundle holds plain files only")
            if path.is_file() and name != MANIFEST and name not in self.manifest.files:
                raise BundleError(
                    f"{path}: not listed in the manifest. Move it away: a bundle holds only what it declares"
                )
        for name in self.manifest.files:
            self.read(name)
        return len(self.manifest.files)


def check_output(out: Path) -> None:
    """Return if a bundle may be written at `out`: nothing is there, or an empty folder, or an older bundle that holds
    nothing of the user's own.

    Raises:
        BundleError: something would be lost, or nothing can be made there.
    """
    parents = out.resolve().parents
    around = next((parent for parent in parents if _declared(parent) is not None), None)
    if around is not None:
        raise BundleError(
            f"{out}: lies inside the bundle {around}, which holds only what it declares. Choose another --out, or move "
            "that bundle away"
        )
    nearest = next((parent for parent in parents if parent.exists()), out)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "no folder may be made in it" if nearest.is_dir() else "it is a file"
        raise BundleError(f"{out}: cannot be made, for {nearest} is in the way: {what}. Choose another --out")
    if out.is_dir() and Path.cwd().is_relative_to(out.resolve()):
        raise BundleError(f"{out}: is the folder you are in, and would be replaced. Type the command outside of it")
    if out.is_dir() and (declared := _declared(out)) is not None:
        files = (path for path in sorted(out.rglob("*")) if path.is_symlink() or not path.is_dir())
        own = [path for path in files if path.relative_to(out).as_posix() not in declared]
        if own:
            more = f" and {len(own) - 1} more" if len(own) > 1 else ""
            raise BundleError(
                f"{out}: holds {own[0].relative_to(out)}{more}, which the bundle there does not declare, and all of it "
                "would be replaced. Choose another --out, or move that away"
            )
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise BundleError(
            f"{out}: exists and is no bundle, so it is not replaced. Choose another --out, or move it away"
        )


def write_bundle(
    out: Path, compose: Callable[[Path], Manifest], prove: Callable[[Bundle], None] = lambda bundle: None
) -> Bundle:
    """Return the bundle written at `out` in one step; an older bundle there is replaced.

    Args:
        out: where the bundle appears.
        compose: writes every file into the folder it is given and returns the manifest, its `files` still empty.
        prove: looks at the finished bundle before it takes its place; what it raises leaves `out` as it was.

    Raises:
        BundleError: something that is no bundle is at `out`.
        MissingError: the disk is full.
    """
    check_output(out)
    with atomic_folder(out) as folder:
        manifest = compose(folder)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        entries = {
            name: FileEntry(sha256=sha256_of(folder / name), size_bytes=(folder / name).stat().st_size)
            for name in names
        }
        whole = manifest.model_copy(update={"files": entries})
        write_file(folder / MANIFEST, whole.model_dump_json(by_alias=True, indent=2) + "\n")
        prove(Bundle.open(folder))
    return Bundle.open(out)


def _declared(folder: Path) -> frozenset[str] | None:
    """Return what the bundle in a folder may hold, its manifest of any schema included; None where the folder is no
    bundle: web pages have a manifest.json too."""
    try:
        said = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or "schema" not in said or not {"artifact", "artifacts"} & said.keys():
        return None
    files = said.get("files")
    return frozenset({MANIFEST, *files}) if isinstance(files, dict) else None


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
