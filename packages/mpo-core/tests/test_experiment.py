from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig, TrainingConfig
from mpo_core.repro.experiment import check_paper, list_experiments, load_experiment, resolve
from mpo_core.repro.paper import Paper


class Compression(StrictModel):
    bond: int | None = Field(default=None, ge=1)
    bonds: dict[str, int] = Field(default_factory=dict)


class Arm(ArmConfig):
    compression: Compression | None = None
    trains: Literal["all", "auxiliary"] = "all"


class Config(StudyConfig[Arm]):
    training: TrainingConfig = TrainingConfig()


class FolderPaper(Paper):
    """A paper whose files lie in a folder of the test."""

    folder: Path

    @property
    def files(self) -> Path:
        return self.folder

    @property
    def config_type(self) -> type[Config]:
        return Config


TINY = """
name: tiny
title: A tiny study
reproduces: [table1]
quickstart: true
config:
  select_metric: accuracy
  training: {epochs: 3, batch_size: 16}
  arms:
    dense: {learning_rates: [1e-4, 3e-4]}
    lfa: {learning_rates: [1e-3], compression: {bond: 8, bonds: {a: 1}}, trains: auxiliary}
    extra: {learning_rates: [1e-3]}
scales:
  smoke:
    training: {max_steps: 2}
    arms: {dense: {learning_rates: [1e-4]}, extra: null, lfa: {compression: {bonds: {b: 2}}}}
  small:
"""
CLAIMS = """
paper: demo
title: Demo
citation: nobody
tables: [{id: table1, caption: scores, columns: [x], rows: {r: {x: 1}}}]
claims:
- {id: c, text: t, place: p, test: direction, experiment: tiny,
   check: {kind: greater, arm: lfa, than: dense, quantity: accuracy}}
"""


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny.yaml").write_text(TINY)
    (tmp_path / "experiments" / "other.yaml").write_text(TINY.replace("name: tiny", "name: other"))
    (tmp_path / "paper.yaml").write_text(CLAIMS)
    made = FolderPaper("demo", "demo", "Demo", "nobody")
    object.__setattr__(made, "folder", tmp_path)
    return made


def users_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_experiments_are_listed_by_name(paper: Paper) -> None:
    entries = list_experiments(paper)
    assert list(entries) == ["other", "tiny"]
    assert entries["tiny"].title == "A tiny study"
    assert entries["tiny"].quickstart
    assert entries["tiny"].reproduces == ("table1",)


def test_a_mistyped_name_is_answered_with_the_nearest_and_all(paper: Paper) -> None:
    with pytest.raises(UsageError, match=r"no experiment 'tinny' \(did you mean 'tiny'\? known: other, tiny\)"):
        load_experiment(paper, "tinny")


def test_a_scale_merges_into_the_shared_part_and_drops_arms(paper: Paper) -> None:
    config, resolved = resolve(paper, load_experiment(paper, "tiny"), "smoke")
    assert isinstance(config, Config)
    assert list(config.arms) == ["dense", "lfa"]
    assert config.training.max_steps == 2
    assert config.training.epochs == 3, "a mapping merges: what the scale does not name stays"
    assert config.arms["dense"].learning_rates == (1e-4,), "a list replaces"
    compression = config.arms["lfa"].compression
    assert compression is not None
    assert (compression.bond, compression.bonds) == (8, {"a": 1, "b": 2})
    assert Config.model_validate(resolved) == config
    assert resolved["training"]["log_every"] == 10, "defaults are filled in"
    assert yaml.safe_load(yaml.safe_dump(resolved)) == resolved


def test_an_empty_scale_differs_in_nothing_and_merging_leaves_the_file_alone(paper: Paper) -> None:
    entry = load_experiment(paper, "tiny")
    before = entry.model_dump()
    resolve(paper, entry, "smoke", ["training.epochs=9"], seeds=1)
    assert entry.model_dump() == before
    config, _ = resolve(paper, entry, "small")
    assert list(config.arms) == ["dense", "lfa", "extra"]


def test_a_scale_that_the_file_lacks_is_refused(paper: Paper) -> None:
    with pytest.raises(UsageError, match=r"has no scale 'paper'; its scales: smoke, small"):
        resolve(paper, load_experiment(paper, "tiny"), "paper")


def test_overrides_and_seeds(paper: Paper) -> None:
    entry = load_experiment(paper, "tiny")
    overrides = [
        "training.epochs=7",
        "arms.lfa.learning_rates=[1e-2]",
        "arms.dense=null",
        "arms.lfa.trains=all",
    ]
    config, _ = resolve(paper, entry, "small", overrides, seeds=3)
    assert isinstance(config, Config)
    assert config.training.epochs == 7
    assert config.arms["lfa"].learning_rates == (0.01,)
    assert config.arms["lfa"].trains == "all"
    assert list(config.arms) == ["lfa", "extra"]
    assert config.seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epohcs=3", r"--set: unknown key 'training.epohcs' \(did you mean 'epochs'\?"),
        ("trainig.epochs=3", r"unknown key 'trainig' \(did you mean 'training'\?"),
        ("arms.lfa.compression.bnod=3", r"unknown key 'arms.lfa.compression.bnod' \(did you mean 'bond'\?"),
        ("arms.lfaa.trains=all", r"no arm 'lfaa' \(did you mean 'lfa'\?"),
        ("arms.lfaa=null", r"cannot drop the arm 'lfaa', which is not there \(did you mean 'lfa'\?"),
        ("arms.lfa.trains=both", r"'arms.lfa.trains': expected 'all' or 'auxiliary', found 'both'"),
        ("training.epochs=many", r"'training.epochs': expected a valid integer.*, found 'many'"),
        ("training.epochs=0", r"'training.epochs': expected a value greater than or equal to 1, found 0"),
        ("training={epochs: x}", r"'training.epochs': expected a valid integer"),
        ("training.epochs", r"is no assignment; expected key=value"),
        ("=3", r"is no assignment"),
        ("training..epochs=3", r"is no assignment"),
        ("training.epochs=[", r"the value is not YAML"),
        ("arms.lfa=!!python/object/apply:os.getcwd []", r"the value is not YAML"),
    ],
)
def test_a_wrong_override_is_a_usage_error_in_one_sentence(paper: Paper, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(paper, load_experiment(paper, "tiny"), "small", [override])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_the_file_itself_has_wrong_is_an_input_error(paper: Paper, tmp_path: Path) -> None:
    entry = load_experiment(paper, users_file(tmp_path, TINY.replace("trains: auxiliary", "trains: some")))
    with pytest.raises(InputFileError, match=r"'tiny' at scale small: 'arms.lfa.trains': expected 'all' or"):
        resolve(paper, entry, "small", ["training.epochs=3"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "tilte:", r"unknown key 'tilte' \(did you mean 'title'\?.*\(1 further problem there\)"),
        ("title: A tiny study", "title: A\ntitle: B", r"line 4, column 1: the key 'title' stands twice"),
        ("{epochs: 3, batch_size: 16}", "{epochs: 3, epochs: 4}", r"the key 'epochs' stands twice"),
        ("title: A tiny study\n", "", r"the key 'title' is missing; add it"),
        ("  smoke:", "  smok:", r"'scales.smok.*expected 'smoke', 'small' or 'paper', found 'smok'"),
        ("[table1]", "[tabel1]", r"names no table 'tabel1' of paper.yaml \(did you mean 'table1'\?"),
        ("name: tiny", "name: ../up", r"'name': .*found '../up'"),
        ("title: A tiny study", "title: [", r"is not valid YAML: line \d+"),
        ("title: A tiny study", "title: !!python/name:os.system", r"is not valid YAML"),
        (TINY, "- a list", r"expected `key: value` lines, found \['a list'\]"),
        (TINY, "", r"found None"),
    ],
)
def test_a_wrong_users_file_is_an_input_error(paper: Paper, tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message) as caught:
        load_experiment(paper, users_file(tmp_path, TINY.replace(old, new)))
    assert "mine.yaml" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_users_file_that_cannot_be_read(paper: Paper, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"absent.yaml: No such file"):
        load_experiment(paper, str(tmp_path / "absent.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match=r"binary.yaml: it is not UTF-8"):
        load_experiment(paper, str(tmp_path / "binary.yaml"))


def test_an_arm_must_be_fit_for_a_folder(paper: Paper, tmp_path: Path) -> None:
    entry = load_experiment(paper, users_file(tmp_path, TINY.replace("extra:", '"../extra":')))
    with pytest.raises(InputFileError, match=r"'../extra' is no name for an arm"):
        resolve(paper, entry, "small")


def test_no_arm_left(paper: Paper) -> None:
    with pytest.raises(UsageError, match="a study needs at least one arm"):
        resolve(
            paper,
            load_experiment(paper, "tiny"),
            "small",
            [f"arms.{a}=null" for a in ("dense", "lfa", "extra")],
        )


def test_a_file_must_bear_its_own_name(paper: Paper, tmp_path: Path) -> None:
    (tmp_path / "experiments" / "third.yaml").write_text(TINY)
    with pytest.raises(InputFileError, match=r"demo/experiments/third.yaml: 'name' is 'tiny'"):
        list_experiments(paper)


def test_check_paper_finds_what_claims_and_experiments_disagree_on(paper: Paper, tmp_path: Path) -> None:
    check_paper(paper)
    (tmp_path / "paper.yaml").write_text(CLAIMS.replace("than: dense", "than: dnse"))
    with pytest.raises(InputFileError, match=r"claim 'c': no arm 'dnse' in 'tiny' \(did you mean 'dense'"):
        check_paper(paper)
    (tmp_path / "paper.yaml").write_text(CLAIMS.replace("experiment: tiny", "experiment: tiy"))
    with pytest.raises(InputFileError, match=r"no experiment 'tiy' \(did you mean 'tiny'"):
        check_paper(paper)


def test_these_modules_leave_torch_and_scipy_alone() -> None:
    modules = ["experiment", "claims", "compare", "record", "summary", "statistics", "report", "plots"]
    imports = "; ".join(f"import mpo_core.repro.{name}" for name in modules)
    code = f"{imports}; import sys; print([m for m in ('torch', 'scipy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def extending(folder: Path, name: str, base: str, more: str = "config: {training: {epochs: 5}}") -> None:
    text = f"name: {name}\ntitle: another\nextends: {base}\n{more}\n"
    (folder / "experiments" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_an_experiment_takes_over_what_it_extends(paper: FolderPaper) -> None:
    extending(paper.folder, "longer", "tiny")
    config, _ = resolve(paper, load_experiment(paper, "longer"), "smoke")
    base, _ = resolve(paper, load_experiment(paper, "tiny"), "smoke")
    assert isinstance(config, Config)
    assert config.training.epochs == 5
    assert config.training.max_steps == 2
    assert config.arms == base.arms
    assert load_experiment(paper, "longer").reproduces == ()
    assert {"tiny", "longer"} <= set(list_experiments(paper))


def test_extending_is_one_step_to_another_experiment(paper: FolderPaper) -> None:
    for name, base, says in (
        ("lost", "nowhere", "names no other experiment 'nowhere'"),
        ("itself", "itself", "names no other experiment 'itself'"),
    ):
        extending(paper.folder, name, base)
        with pytest.raises(InputFileError, match=says):
            load_experiment(paper, name)
        (paper.folder / "experiments" / f"{name}.yaml").unlink()
    extending(paper.folder, "one", "two")
    extending(paper.folder, "two", "one")
    with pytest.raises(InputFileError, match="one step is enough"):
        load_experiment(paper, "one")


def test_an_experiment_without_a_configuration_is_refused(paper: FolderPaper, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="needs 'config' and 'scales'"):
        load_experiment(paper, users_file(tmp_path, "name: bare\ntitle: t\n"))
