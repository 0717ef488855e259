"""Tests of edgetl/pipeline/stages.py."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetl.errors import MissingError
from edgetl.pipeline import stages
from edgetl.pipeline.stages import Stage, code_of, hash_of, write_record
from edgetl.records import Border


@pytest.fixture(autouse=True)
def _empty_cache(no_stages: Path) -> None:
    """Keep the stages of these tests away from the shared build's."""


@pytest.fixture
def stage() -> Stage:
    return Stage.of("first", (), 1)


def leave(folder: Path) -> None:
    write_record(folder, "border", Border(top=3))


class TestKey:
    def test_the_same_inputs_give_the_same_key(self) -> None:
        assert Stage.of("a", ("data",), 1, {"x": 2, "y": 3}).key == Stage.of("a", ("data",), 1, {"y": 3, "x": 2}).key

    @pytest.mark.parametrize(
        "other",
        [("b", ("data",), 1, "x"), ("a", ("metrics",), 1, "x"), ("a", ("data",), 2, "x"), ("a", ("data",), 1)],
    )
    def test_another_name_code_or_input_gives_another_key(self, other: tuple[str, tuple[str, ...], object]) -> None:
        assert Stage.of(*other).key != Stage.of("a", ("data",), 1, "x").key

    def test_a_stage_as_input_stands_for_all_that_it_depends_on(self) -> None:
        first, second = (Stage.of("first", (), number) for number in (1, 2))
        assert Stage.of("next", (), first).key != Stage.of("next", (), second).key

    def test_order_matters_in_lists_and_not_in_tables(self) -> None:
        assert hash_of([1, 2]) != hash_of([2, 1])
        assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})


class TestCodeOf:
    @pytest.fixture
    def house(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Yield a package with a room that is a file and a room that is a folder."""
        (tmp_path / "house" / "room").mkdir(parents=True)
        for name in ("__init__.py", "hall.py", "room/__init__.py", "room/bed.py"):
            (tmp_path / "house" / name).write_text("x = 1\n")
        monkeypatch.setattr(stages, "__file__", str(tmp_path / "house" / "pipeline" / "stages.py"))
        code_of.cache_clear()
        yield tmp_path / "house"
        code_of.cache_clear()

    @pytest.mark.parametrize("changed", ["hall.py", "room/bed.py"])
    def test_it_changes_with_the_code_of_its_rooms(self, changed: str, house: Path) -> None:
        before = code_of(("room", "hall"))
        (house / changed).write_text("x = 2\n")
        code_of.cache_clear()
        assert code_of(("room", "hall")) != before

    def test_it_does_not_change_with_other_rooms(self, house: Path) -> None:
        before = code_of(("room",))
        (house / "hall.py").write_text("x = 2\n")
        code_of.cache_clear()
        assert code_of(("room",)) == before


class TestMake:
    def test_the_work_is_done_once(self, stage: Stage) -> None:
        done: list[Path] = []
        for _ in range(2):
            assert stage.make(done.append) == stage.folder
        assert len(done) == 1
        assert stage.done

    def test_what_it_leaves_can_be_read(self, stage: Stage) -> None:
        stage.make(leave)
        assert stage.read("border", Border) == Border(top=3)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_work_that_fails_leaves_nothing(self, error: type[BaseException], stage: Stage) -> None:
        def fail(folder: Path) -> None:
            leave(folder)
            raise error("stop")

        with pytest.raises(error, match="stop"):
            stage.make(fail)
        assert not stage.done
        assert list(stage.folder.parent.iterdir()) == []

    def test_work_that_failed_is_done_again(self, stage: Stage) -> None:
        with pytest.raises(RuntimeError, match="stop"):
            stage.make(lambda folder: (_ for _ in ()).throw(RuntimeError("stop")))
        stage.make(leave)
        assert stage.read("border", Border).top == 3

    def test_a_full_disk_is_an_error_that_says_that_nothing_is_lost(self, stage: Stage) -> None:
        def fill(folder: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(
            MissingError, match=r"no space left on this disk\. What was finished is kept: free some and"
        ):
            stage.make(fill)
        assert not stage.done

    def test_a_stage_that_is_made_anew_takes_the_old_ones_place(self, stage: Stage) -> None:
        stage.make(lambda folder: (folder / "old").touch())
        stage.make(leave, anew=True)
        assert stage.read("border", Border).top == 3
        assert not (stage.folder / "old").exists()

    def test_a_stage_whose_making_anew_fails_keeps_the_old_output(self, stage: Stage) -> None:
        stage.make(leave)
        with pytest.raises(RuntimeError, match="stop"):
            stage.make(lambda folder: (_ for _ in ()).throw(RuntimeError("stop")), anew=True)
        assert stage.read("border", Border).top == 3

    def test_outputs_lie_in_the_cache_under_name_and_key(self, stage: Stage, no_stages: Path) -> None:
        assert stage.folder == no_stages / f"first-{stage.key[:20]}"
