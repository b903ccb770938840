"""Jobs that may be stopped: held to what they were begun with, and gone without a trace when they are done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpo_core.errors import UsageError
from mpo_core.repro.config import StrictModel
from mpo_core.repro.jobs import CONFIG, unfinished


class Part(StrictModel):
    rate: float = 0.1
    names: tuple[str, ...] = ("a", "b")


class Job(StrictModel):
    seed: int = 0
    part: Part = Part()


def test_the_folder_is_there_until_the_job_is_done(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    def stopped() -> None:
        with unfinished(out, Job(), "doing") as folder:
            assert folder == tmp_path / "deep" / "out.doing"
            (folder / "half.txt").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    with unfinished(out, Job(), "doing") as folder:
        assert (folder / "half.txt").read_text() == "half"
        out.mkdir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Job(seed=1), "begun with seed = 0, but now it is 1"),
        (Job(part=Part(rate=0.2)), "begun with part.rate = 0.1, but now it is 0.2"),
        (Job(part=Part(names=("a",))), "begun with part.names = "),
    ],
    ids=["seed", "rate", "names"],
)
def test_another_job_is_not_gone_on_with(tmp_path: Path, other: Job, says: str) -> None:
    out = tmp_path / "out"
    folder = tmp_path / "out.doing"
    folder.mkdir()
    (folder / CONFIG).write_text(Job().model_dump_json())
    with pytest.raises(UsageError, match=says), unfinished(out, other, "doing"):
        pass
    assert (folder / CONFIG).is_file()


def test_a_job_goes_on_only_with_what_it_read_before(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    weights, triples = model / "deep" / "weights", tmp_path / "triples.tsv"
    weights.write_bytes(b"1" * 3_000_000)
    triples.write_text("a\tb\tc\n")
    out = tmp_path / "out"

    def work(finish: bool) -> None:
        with unfinished(out, Job(), "doing", [model, triples, tmp_path / "not-there"]) as folder:
            (folder / "half.txt").write_text("half")
            if not finish:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        work(finish=False)
    for path, other in ((weights, b"1" * 2_999_999 + b"2"), (triples, b"a\tb\td\n")):
        before = path.read_bytes()
        path.write_bytes(other)
        with pytest.raises(UsageError, match=f"another content of {tmp_path / path.relative_to(tmp_path).parts[0]}"):
            work(finish=True)
        path.write_bytes(before)
    weights.rename(model / "weights")
    with pytest.raises(UsageError, match="another content of"):
        work(finish=True)
    (model / "weights").rename(weights)
    work(finish=True)
    assert not (tmp_path / "out.doing").exists()


def test_a_job_that_was_refused_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError), unfinished(tmp_path / "out", Job(), "doing"):
        raise UsageError("not like this")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), unfinished(tmp_path, Job(), "doing"):
        pass


def test_two_processes_do_not_work_on_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        unfinished(out, Job(), "doing"),
        pytest.raises(UsageError, match="another process"),
        unfinished(out, Job(), "doing"),
    ):
        pass


def test_a_damaged_beginning_says_what_to_remove(tmp_path: Path) -> None:
    folder = tmp_path / "out.doing"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(Job().model_dump(mode="json"))[:9])
    with pytest.raises(UsageError, match=r"out\.doing to begin anew"), unfinished(tmp_path / "out", Job(), "doing"):
        pass
