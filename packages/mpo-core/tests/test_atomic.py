from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpo_core.errors import UsageError
from mpo_core.repro.atomic import (
    new_folder,
    remove_folder,
    remove_leftovers,
    write_bytes_atomic,
    write_json_atomic,
)
from mpo_core.repro.lock import folder_lock


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_replace_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes_atomic(path, b"old")
    write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_json_round_trips_and_floats_are_exact(tmp_path: Path) -> None:
    value = {"name": "Größe", "x": 0.1 + 0.2, "list": [1, None, True]}
    write_json_atomic(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == value


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json_atomic(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(path, {"loss": float("nan")})
    assert path.read_text() == "1\n"
    assert names(tmp_path) == ["value.json"]


def test_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with new_folder(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("x")
        assert not path.exists()
    assert (path / "sub" / "file").read_text() == "x"
    assert names(path.parent) == ["folder"]


def test_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert names(tmp_path) == []


def test_folder_with_content_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="already exists"), new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder" / "file").read_text() == "mine"


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from mpo_core.repro.atomic import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'file').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder")], check=False)
    assert process.returncode == -9
    (tmp_path / "kept").write_text("x")
    assert len(names(tmp_path)) == 2
    assert not (tmp_path / "folder").exists()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["kept"]


def test_remove_folder(tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    remove_folder(tmp_path / "folder")
    assert names(tmp_path) == []


def test_lock_keeps_a_second_process_out_until_the_first_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mpo_core.repro.lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another process is working on"), folder_lock(tmp_path):
            pass
        holder.kill()
    with folder_lock(tmp_path, wait_seconds=5):
        pass
    with folder_lock(tmp_path):  # released at the end of the block
        pass
