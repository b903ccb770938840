from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mpo_core.repro.paper import Paper
from mpo_core.repro.runner import start_run

TOYS = Path(__file__).parent / "toys"
SCRIPT = Path(__file__).parents[3] / "tools" / "kill-and-resume"
TOY = Paper("toy", "toypaper", "A toy", "Nobody, 2026")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("kill_and_resume", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, loader.name, module)
    loader.exec_module(module)
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.setenv("PYTHONPATH", str(TOYS))
    return module


def test_fingerprint_sees_one_bit(tool: ModuleType, tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "final-a-seed0"
    (trial / "checkpoints" / "step-00000010").mkdir(parents=True)
    manifest = trial / "checkpoints" / "step-00000010" / "manifest.json"
    hashes = dict.fromkeys((*tool.TENSOR_FILES, "state.json"), "00")
    manifest.write_text(json.dumps({"sha256": hashes}))
    (trial / "record.json").write_text(json.dumps({"seconds": 1.0, "metrics": {"acc": 0.5}}))
    (trial / "log.jsonl").write_text('{"step": 1, "loss": 0.5, "seconds": 3}\n')
    before = tool.fingerprint(tmp_path)
    (trial / "record.json").write_text(json.dumps({"seconds": 2.0, "metrics": {"acc": 0.5}}))
    (trial / "log.jsonl").write_text('{"step": 1, "loss": 0.5, "seconds": 4}\n')
    assert list(tool.differing(before, tool.fingerprint(tmp_path))) == []
    (trial / "log.jsonl").write_text('{"step": 1, "loss": 0.5000001, "seconds": 4}\n')
    manifest.write_text(json.dumps({"sha256": hashes | {"model.safetensors": "01"}}))
    assert list(tool.differing(before, tool.fingerprint(tmp_path))) == [
        "final-a-seed0/checkpoints/step-00000010/model.safetensors",
        "final-a-seed0/log.jsonl",
    ]
    assert list(tool.differing(before, {})) == [f"final-a-seed0/{part}" for part in sorted(before["final-a-seed0"])]


@pytest.mark.slow
def test_three_kills_of_a_toy_run_end_bit_equal(tool: ModuleType, tmp_path: Path) -> None:
    overrides = ["arms.frozen=null", "arms.untrained=null", "delay=0.1"]
    fresh = start_run(TOY, "toy", "smoke", overrides=overrides, seeds=1, runs=tmp_path / "fresh")
    lines: list[str] = []
    outcome = tool.kill_and_resume(TOY, fresh, tmp_path, kills=3, workers=1, seed=1, report=lines.append)
    assert (outcome.kills, outcome.equal) == (3, 3), "\n".join(lines)
    assert lines[0].endswith("3 trials")
    assert sum(line.startswith("kill ") for line in lines) == 3
    assert lines[-1] == "3 of 3 resumed and ended bit-equal"


def test_script_is_executable_and_explains_itself(tool: ModuleType) -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert tool.__doc__ is not None
    assert "--kills 20" in tool.__doc__
