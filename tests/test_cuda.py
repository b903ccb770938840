"""Every paper's commands where there is a GPU: accelerate then trains there, while batches are made on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

COMMANDS = {
    "mpop": [["run", "decoder", "--scale", "smoke"]],
    "hypermr": [
        ["train", "--data", "hierarchy", "--hops", "2", "--epochs", "1", "--d", "16", "--out", "model"],
        ["inspect", "--model", "model"],
        ["run", "curvature-pq-3h", "--scale", "smoke"],
        ["run", "baselines", "--scale", "smoke"],
    ],
    "cp_bcs": [["run", "ladder-random", "--scale", "smoke"]],
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("package", COMMANDS)
def test_commands_run_on_a_gpu(package: str, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    for command in COMMANDS[package]:
        start = ["-c", f"import sys; from {package}.cli import main; sys.exit(main())", *command]
        ended = subprocess.run(
            [sys.executable, *start], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
