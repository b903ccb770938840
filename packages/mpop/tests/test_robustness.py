"""Bad input on the command line: one sentence, the right exit code, no traceback."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpo_core.repro import cli as repro_cli
from mpo_core.repro.models import resolve_model
from mpop import cli as mpop_cli


@dataclass
class Outcome:
    returncode: int
    stderr: str


@pytest.fixture
def command(monkeypatch, capfd):
    """Run a command line in this process, from its entry point on, as the installed script does."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPO_DATA", "")  # what --data-dir sets is taken back after the test
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments, main=mpop_cli.main):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Outcome(int(code or 0), capfd.readouterr().err)

    return run


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


def test_a_folder_that_is_no_model(command, tmp_path):
    (tmp_path / "empty").mkdir()
    message = assert_refused(command("compress", tmp_path / "empty", "--out", tmp_path / "m"), 3, "config.json")
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("budget", ["0", "7", "-1"])
def test_a_budget_out_of_range(command, budget, tmp_path):
    result = command("compress", "minilm", "--budget", budget, "--out", tmp_path / "m")
    assert_refused(result, 2, "budget", budget)


def test_two_limits_at_once(command, tmp_path):
    result = command("compress", "minilm", "--budget", "0.5", "--bond", "9", "--out", tmp_path / "m")
    assert_refused(result, 2, "bond and budget exclude each other")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bond", "many"], ["--bond 'many'", "PATTERN=NUMBER"]),
        (["--cores", "*query=-3"], ["--cores '*query=-3'", "whole number"]),
        (["--cores", "*query=17"], ["--cores *query=17", "less than or equal to 16"]),
        (["--bond", "*query=0"], ["--bond *query=0", "greater than or equal to 1"]),
        (["--bond", "3", "--bond", "4"], ["--bond is given twice for all matrices"]),
        (["--cores", "*query=3", "--cores", "*query=4"], ["--cores is given twice for *query"]),
        (["--cores", "*quarry=3"], ["'*quarry' fits none"]),
    ],
)
def test_rules_that_cannot_be(command, options, words, tmp_path):
    assert_refused(command("compress", "minilm", *options, "--out", tmp_path / "m"), 2, *words)
    assert not (tmp_path / "m").exists()


def test_an_unknown_experiment_names_the_nearest(command):
    assert_refused(command("run", "mprc"), 2, "mprc", "mrpc")


def test_an_unknown_paper_names_those_installed(command):
    assert_refused(command("show", "mpob/mrpc", main=repro_cli.main), 2, "mpob", "mpop")


def test_an_unknown_key_in_an_experiment_file_names_the_nearest(command, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\ntitle: mine\nreproduces: []\nconfig:\n  study: count\n  seeds: [0]\n"
        "  arms: {a: {architecture: {model_type: bert}, trainz: all}}\nscales: {smoke: {}, small: {}, paper: {}}\n"
    )
    assert_refused(command("run", file), 3, "trainz", "trains", "'mine'")


def test_an_unknown_key_on_the_command_line_names_the_nearest(command):
    assert_refused(command("run", "parameters", "--set", "trainig.epochs=3"), 2, "trainig", "training")


@pytest.mark.parametrize(
    ("squeeze", "words"),
    [
        ("{}", ["'arms.lfa.squeeze': squeeze needs target_size"]),
        ("{target_size: 3}", ["'arms.lfa.squeeze.target_size'", "less than 1"]),
        ("{target_size: 0.5, varinat: released}", ["unknown key 'arms.lfa.squeeze.varinat' (did you mean 'variant'"]),
        ("{target_size: 0.5, variant: relased}", ["'arms.lfa.squeeze'", "variant paper or released"]),
        ("{variant: released}", ["'arms.lfa.squeeze.best_loss' is missing"]),
        ("half", ["'arms.lfa.squeeze'", "expected a mapping"]),
    ],
)
def test_a_squeezing_that_cannot_be(command, squeeze, words):
    assert_refused(command("run", "mrpc", "--set", f"arms.lfa.squeeze={squeeze}"), 2, *words)


def test_a_squeezing_without_an_end(command, tmp_path):
    result = command("squeeze", "minilm", "--task", "doctext-pairs", "--out", tmp_path / "m")
    assert_refused(result, 2, "--target-size is missing", "--cuts")


def test_a_truncated_weights_file_of_a_plain_model(command, minilm, tmp_path):
    weights = minilm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    assert_refused(command("compress", minilm, "--out", tmp_path / "m"), 3, "model.safetensors")


def test_a_record_of_an_older_schema(command, tmp_path):
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"schema_version": 0, "paper": "mpop", "experiment": "mrpc"}))
    assert_refused(command("compare", record), 3, "record.json", "schema", "0", "1")


def test_a_file_that_is_no_record(command, tmp_path):
    record = tmp_path / "record.json"
    record.write_text('{"schema_version": 1, "paper"')
    assert_refused(command("compare", record), 3, "record.json")


def test_a_run_folder_that_is_none(command, tmp_path):
    assert_refused(command("run", "--resume", tmp_path), 3, "config.yaml")


def test_a_compressed_folder_is_not_compressed_again(command, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mpo.json").write_text("{}")
    (tmp_path / "m" / "config.json").write_text("{}")
    assert_refused(command("compress", tmp_path / "m", "--out", tmp_path / "n"), 3, "merge")


def test_an_existing_output_folder(command, tmp_path):
    (tmp_path / "m").mkdir()
    assert_refused(command("compress", "minilm", "--out", tmp_path / "m"), 2, "exists")


def test_debug_adds_the_traceback():
    script = [str(Path(sys.executable).with_name("mpop")), "run", "mprc", "--debug"]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr
    assert "UsageError" in result.stderr


def test_a_hub_name_without_network(command, tmp_path):
    assert_refused(command("compress", "someone/no-such-model", "--out", tmp_path / "m"), 3, "someone/no-such-model")


def test_missing_data_says_what_to_set(command, tmp_path):
    result = command("run", "mrpc", "--data-dir", tmp_path, "--runs", tmp_path / "runs")
    assert_refused(result, 3, "--data-dir")
