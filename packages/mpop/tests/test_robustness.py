"""Bad input on the command line: one sentence, the right exit code, no traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpo_core.repro.models import resolve_model

MPOP = Path(sys.executable).with_name("mpop")
REPRO = Path(sys.executable).with_name("repro")


def command(*arguments, program=MPOP, cwd=None):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def assert_refused(result, code, *words):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    message = result.stderr.strip()
    for word in words:
        assert word in message
    return message


@pytest.fixture
def minilm(tmp_path):
    return shutil.copytree(resolve_model("minilm"), tmp_path / "minilm")


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    message = assert_refused(
        command("compress", tmp_path / "empty", "--out", tmp_path / "m"), 3, "config.json"
    )
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("budget", ["0", "7", "-1"])
def test_a_budget_out_of_range(budget, tmp_path):
    result = command("compress", "minilm", "--budget", budget, "--out", tmp_path / "m")
    assert_refused(result, 2, "budget", budget)


def test_two_limits_at_once(tmp_path):
    result = command("compress", "minilm", "--budget", "0.5", "--bond", "9", "--out", tmp_path / "m")
    assert_refused(result, 2, "bond and budget exclude each other")


def test_an_unknown_experiment_names_the_nearest():
    assert_refused(command("run", "mprc"), 2, "mprc", "mrpc")


def test_an_unknown_paper_names_those_installed():
    assert_refused(command("show", "mpob/mrpc", program=REPRO), 2, "mpob", "mpop")


def test_an_unknown_key_in_an_experiment_file_names_the_nearest(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\ntitle: mine\nreproduces: []\nconfig:\n  study: count\n  seeds: [0]\n"
        "  arms: {a: {architecture: {model_type: bert}, trainz: all}}\nscales: {smoke: {}, small: {}, paper: {}}\n"
    )
    assert_refused(command("run", file), 3, "trainz", "trains", "mine.yaml")


def test_an_unknown_key_on_the_command_line_names_the_nearest():
    assert_refused(command("run", "parameters", "--set", "trainig.epochs=3"), 2, "trainig", "training")


def test_a_truncated_weights_file_of_a_plain_model(minilm, tmp_path):
    weights = minilm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    assert_refused(command("compress", minilm, "--out", tmp_path / "m"), 3, "model.safetensors")


def test_a_record_of_an_older_schema(tmp_path):
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"schema_version": 0, "paper": "mpop", "experiment": "mrpc"}))
    assert_refused(command("compare", record), 3, "record.json", "schema", "0", "1")


def test_a_file_that_is_no_record(tmp_path):
    record = tmp_path / "record.json"
    record.write_text('{"schema_version": 1, "paper"')
    assert_refused(command("compare", record), 3, "record.json")


def test_a_run_folder_that_is_none(tmp_path):
    assert_refused(command("run", "--resume", tmp_path), 3, "config.yaml")


def test_a_compressed_folder_is_not_compressed_again(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mpo.json").write_text("{}")
    (tmp_path / "m" / "config.json").write_text("{}")
    assert_refused(command("compress", tmp_path / "m", "--out", tmp_path / "n"), 3, "merge")


def test_an_existing_output_folder(tmp_path):
    (tmp_path / "m").mkdir()
    assert_refused(command("compress", "minilm", "--out", tmp_path / "m"), 2, "exists")


def test_debug_adds_the_traceback():
    result = command("run", "mprc", "--debug")
    assert "Traceback" in result.stderr
    assert "UsageError" in result.stderr


def test_a_hub_name_without_network(tmp_path):
    assert_refused(
        command("compress", "someone/no-such-model", "--out", tmp_path / "m"), 3, "someone/no-such-model"
    )


def test_missing_data_says_what_to_set(tmp_path):
    result = command("run", "mrpc", "--data-dir", tmp_path, "--runs", tmp_path / "runs")
    assert_refused(result, 3, "--data-dir")
