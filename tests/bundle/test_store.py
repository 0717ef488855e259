"""Tests of edgetl/bundle/store.py."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edgetl.bundle import Bundle, Manifest, check_output, sha256_of, write_bundle
from edgetl.errors import BundleError, MissingError

LISTED = ["model.onnx", "labels.txt", "golden/inputs.npy", "golden/model.npy", "golden/000.jpg"]


def edit_manifest(folder: Path, **changed: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


class TestOpen:
    def test_it_says_what_was_written(self, tiny_bundle: Path) -> None:
        manifest = Bundle.open(tiny_bundle).manifest
        assert (manifest.name, manifest.labels) == ("tiny", ("apple", "banana", "cherry"))

    def test_a_folder_given_as_text_will_do(self, tiny_bundle: Path) -> None:
        assert Bundle.open(str(tiny_bundle)).folder == tiny_bundle

    def test_a_folder_that_is_not_there_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"gone: not a bundle \(no such folder\)\. Make one with: edgetl build"):
            Bundle.open(tmp_path / "gone")

    def test_a_folder_without_a_manifest_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"not a bundle \(a folder without manifest\.json\)"):
            Bundle.open(tmp_path)

    def test_a_folder_of_bundles_names_them(self, own_bundle: Path) -> None:
        shutil.copytree(own_bundle, own_bundle.with_name(".tiny.partial-0a"))
        message = rf"not a bundle, but a folder that holds bundles: {own_bundle}$"
        with pytest.raises(BundleError, match=message):
            Bundle.open(own_bundle.parent)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
    def test_a_manifest_that_cannot_be_read_is_refused(self, content: bytes, own_bundle: Path) -> None:
        (own_bundle / "manifest.json").write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest\.json: the whole file: .* build the bundle again"):
            Bundle.open(own_bundle)

    @pytest.mark.parametrize("schema", [0, 2, "1", None])
    def test_a_manifest_of_another_schema_is_refused(self, schema: object, own_bundle: Path) -> None:
        edit_manifest(own_bundle, schema=schema, new_in_schema_2=True)
        message = (
            r"manifest\.json: schema: Input should be 1\. This edgetl reads manifests of schema 1; build the bundle"
        )
        with pytest.raises(BundleError, match=message):
            Bundle.open(own_bundle)

    def test_an_unknown_key_is_named(self, own_bundle: Path) -> None:
        edit_manifest(own_bundle, colour="red")
        with pytest.raises(BundleError, match=r"manifest\.json: colour: Extra inputs are not permitted"):
            Bundle.open(own_bundle)

    def test_a_key_inside_a_record_is_named_with_its_path(self, own_bundle: Path) -> None:
        said = json.loads((own_bundle / "manifest.json").read_text())
        said["artifacts"][0]["execution"]["threads"] = -1
        edit_manifest(own_bundle, artifacts=said["artifacts"])
        with pytest.raises(
            BundleError, match=r"artifacts\.0\.execution\.threads: Input should be greater than or equal to 0"
        ):
            Bundle.open(own_bundle)


class TestRead:
    def test_every_listed_file_is_returned_as_it_is(self, tiny_bundle: Path) -> None:
        bundle = Bundle.open(tiny_bundle)
        for name in bundle.manifest.files:
            assert bundle.read(name) == (tiny_bundle / name).read_bytes()

    @pytest.mark.parametrize("name", ["notes.txt", "manifest.json", "../tiny/labels.txt", ""])
    def test_a_name_that_is_not_listed_is_refused(self, name: str, tiny_bundle: Path) -> None:
        with pytest.raises(BundleError, match="is not listed in the manifest"):
            Bundle.open(tiny_bundle).read(name)

    @pytest.mark.parametrize("name", LISTED)
    def test_200_random_single_bit_flips_are_each_refused(self, name: str, own_bundle: Path) -> None:
        bundle, path = Bundle.open(own_bundle), own_bundle / name
        whole, draw = path.read_bytes(), random.Random(name)
        for _ in range(200):
            bit = draw.randrange(8 * len(whole))
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(
                BundleError, match=r"damaged or changed: sha256 is [0-9a-f]{12}\.\.\., the manifest says"
            ):
                bundle.read(name)

    @pytest.mark.parametrize("name", LISTED)
    def test_a_truncated_file_is_refused(self, name: str, own_bundle: Path) -> None:
        path = own_bundle / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BundleError, match=r"damaged or changed: .* Copy the whole bundle again"):
            Bundle.open(own_bundle).read(name)

    def test_an_entry_that_leads_out_of_the_folder_is_refused(self, own_bundle: Path) -> None:
        secret = own_bundle.parent / "secret.txt"
        secret.write_text("secret")
        entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "size_bytes": 6}
        for name in ("../secret.txt", str(secret)):
            edit_manifest(own_bundle, files={name: entry})
            with pytest.raises(BundleError, match=r"leads out of the bundle, which holds its own files only"):
                Bundle.open(own_bundle).read(name)

    def test_a_folder_that_is_a_link_to_elsewhere_is_refused(self, own_bundle: Path) -> None:
        (own_bundle / "golden").rename(own_bundle.parent / "elsewhere")
        (own_bundle / "golden").symlink_to(own_bundle.parent / "elsewhere")
        with pytest.raises(BundleError, match="leads out of the bundle"):
            Bundle.open(own_bundle).read("golden/000.jpg")


class TestCheckFiles:
    def test_a_whole_bundle_has_as_many_files_as_it_lists(self, tiny_bundle: Path) -> None:
        found = [path for path in tiny_bundle.rglob("*") if path.is_file()]
        # The manifest lists all but itself: model, labels, four photos, inputs, logits.
        assert Bundle.open(tiny_bundle).check_files() == len(found) - 1 == 8

    @pytest.mark.parametrize("name", LISTED)
    def test_a_changed_file_is_found(self, name: str, own_bundle: Path) -> None:
        with (own_bundle / name).open("ab") as file:
            file.write(b"\n")
        with pytest.raises(BundleError, match=f"{name}: damaged or changed"):
            Bundle.open(own_bundle).check_files()

    @pytest.mark.parametrize("name", LISTED)
    def test_a_missing_file_is_found(self, name: str, own_bundle: Path) -> None:
        (own_bundle / name).unlink()
        with pytest.raises(BundleError, match=f"{name}: is missing. Copy the whole bundle again"):
            Bundle.open(own_bundle).check_files()

    @pytest.mark.parametrize("name", ["notes.txt", "golden/004.jpg", ".hidden", "deep/er/model.onnx"])
    def test_a_file_that_is_not_listed_is_found(self, name: str, own_bundle: Path) -> None:
        (own_bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (own_bundle / name).write_text("mine")
        with pytest.raises(BundleError, match=f"{name}: not listed in the manifest. Move it away"):
            Bundle.open(own_bundle).check_files()

    @pytest.mark.parametrize("name", LISTED)
    def test_a_listed_file_that_is_a_link_is_found(self, name: str, own_bundle: Path) -> None:
        (own_bundle / name).rename(own_bundle.parent / "moved")
        (own_bundle / name).symlink_to(own_bundle.parent / "moved")
        with pytest.raises(BundleError, match=f"{name}: is a link. A bundle holds plain files only"):
            Bundle.open(own_bundle).check_files()
        with pytest.raises(BundleError, match=f"{name}: is a link. Copy the whole bundle again"):
            Bundle.open(own_bundle).read(name)

    @pytest.mark.parametrize("target", ["/etc", "nowhere"])
    def test_a_link_that_is_not_listed_is_found(self, target: str, own_bundle: Path) -> None:
        (own_bundle / "more").symlink_to(target)
        with pytest.raises(BundleError, match=r"more: is a link\. A bundle holds plain files only"):
            Bundle.open(own_bundle).check_files()

    def test_a_copy_of_a_bundle_is_a_bundle(self, tiny_bundle: Path, tmp_path: Path) -> None:
        assert Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "other name")).check_files() == 8


class TestCheckOutput:
    def test_a_place_where_nothing_is_will_do(self, tmp_path: Path) -> None:
        check_output(tmp_path / "new")

    def test_an_empty_folder_will_do(self, tmp_path: Path) -> None:
        check_output(tmp_path)

    def test_an_older_bundle_will_do(self, tiny_bundle: Path) -> None:
        check_output(tiny_bundle)

    def test_a_bundle_of_another_schema_will_do(self, own_bundle: Path) -> None:
        edit_manifest(own_bundle, schema=2, new_in_schema_2=True)
        check_output(own_bundle)

    @pytest.mark.parametrize("name", ["notes.txt", "golden/mine.jpg", "jetson/manifest.json"])
    def test_an_older_bundle_with_a_file_of_the_users_own_is_kept(self, name: str, own_bundle: Path) -> None:
        (own_bundle / name).parent.mkdir(exist_ok=True)
        (own_bundle / name).write_text("{}")
        with pytest.raises(BundleError, match=f"holds {name}, which the bundle there does not declare, and all of it"):
            check_output(own_bundle)

    def test_an_older_bundle_with_several_names_the_first_and_counts_the_rest(self, own_bundle: Path) -> None:
        for name in ("b", "a"):
            (own_bundle / name).symlink_to("nowhere")
        with pytest.raises(BundleError, match=r"holds a and 1 more, which .* Choose another --out, or move that away"):
            check_output(own_bundle)

    @pytest.mark.parametrize("inside", ["jetson", "golden", "a/b"])
    def test_a_place_inside_a_bundle_will_not_do(self, inside: str, tiny_bundle: Path) -> None:
        message = f"{inside}: lies inside the bundle {tiny_bundle}, which holds only what it declares"
        with pytest.raises(BundleError, match=message):
            check_output(tiny_bundle / inside)

    def test_a_link_into_a_bundle_will_not_do(self, own_bundle: Path, tmp_path: Path) -> None:
        (own_bundle / "empty").mkdir()
        (tmp_path / "link").symlink_to(own_bundle / "empty")
        with pytest.raises(BundleError, match=f"link: lies inside the bundle {own_bundle}"):
            check_output(tmp_path / "link")

    def test_the_folder_that_one_is_in_will_not_do(self, own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(own_bundle / "golden")
        with pytest.raises(BundleError, match=r"is the folder you are in, and would be replaced"):
            check_output(own_bundle)

    def test_a_place_beside_a_bundle_will_do(self, tiny_bundle: Path) -> None:
        check_output(tiny_bundle.with_name("other"))

    def test_a_folder_that_is_no_bundle_will_not_do(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("three years")
        with pytest.raises(BundleError, match=r"exists and is no bundle, so it is not replaced\. Choose another --out"):
            check_output(tmp_path)

    @pytest.mark.parametrize("content", ['{"name": "A web page", "icons": [], "start_url": "/"}', "[]", "", "\xff"])
    def test_a_folder_with_another_programs_manifest_will_not_do(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
        with pytest.raises(BundleError, match="exists and is no bundle"):
            check_output(tmp_path)

    def test_a_file_will_not_do(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        with pytest.raises(BundleError, match="exists and is no bundle"):
            check_output(tmp_path / "out")

    def test_a_link_to_nowhere_will_not_do(self, tmp_path: Path) -> None:
        (tmp_path / "out").symlink_to(tmp_path / "gone")
        with pytest.raises(BundleError, match="exists and is no bundle"):
            check_output(tmp_path / "out")

    def test_a_place_below_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes").write_text("mine")
        with pytest.raises(BundleError, match=r"out: cannot be made, for .*notes is in the way: it is a file"):
            check_output(tmp_path / "notes" / "deep" / "out")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_may_not_be_written_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(BundleError, match=r"is in the way: no folder may be made in it"):
            check_output(tmp_path / "out")


class TestWriteBundle:
    def test_every_file_but_the_manifest_is_listed_with_its_size_and_hash(self, tiny_bundle: Path) -> None:
        files = Bundle.open(tiny_bundle).manifest.files
        found = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
        assert set(files) == found - {"manifest.json"}
        for name, entry in files.items():
            assert entry.size_bytes == (tiny_bundle / name).stat().st_size
            assert entry.sha256 == sha256_of(tiny_bundle / name)

    def test_an_older_bundle_is_replaced_as_a_whole(self, make_bundle: Any, tmp_path: Path) -> None:
        make_bundle(tmp_path / "out")
        bundle = make_bundle(tmp_path / "out", golden=False, name="second")
        assert bundle.manifest.name == "second"
        assert bundle.check_files() == 2
        assert not (tmp_path / "out" / "golden").exists()

    def test_what_is_no_bundle_is_not_replaced(self, make_bundle: Any, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("three years")
        with pytest.raises(BundleError, match="exists and is no bundle"):
            make_bundle(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_a_composer_that_fails_leaves_the_older_bundle(self, own_bundle: Path) -> None:
        def compose(folder: Path) -> NoReturn:
            (folder / "model.onnx").write_bytes(b"half")
            raise RuntimeError("halfway")

        with pytest.raises(RuntimeError, match="halfway"):
            write_bundle(own_bundle, compose)
        assert Bundle.open(own_bundle).check_files() == 8

    def test_a_full_disk_leaves_the_older_bundle(self, own_bundle: Path) -> None:
        def compose(folder: Path) -> Manifest:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.raises(MissingError, match="no space left on this disk"):
            write_bundle(own_bundle, compose)
        assert Bundle.open(own_bundle).check_files() == 8

    def test_the_same_content_gives_the_same_manifest(self, make_bundle: Any, tmp_path: Path) -> None:
        first, second = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b")
        assert (first.folder / "manifest.json").read_bytes() == (second.folder / "manifest.json").read_bytes()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_a_files_hash_is_that_of_its_whole_content(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    assert sha256_of(tmp_path / "file") == hashlib.sha256(bytes(size)).hexdigest()
