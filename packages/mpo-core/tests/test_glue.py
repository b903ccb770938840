"""GLUE: the real files' row and label counts, the hub's form, bad files, fixed splits."""

from __future__ import annotations

import collections
import gzip
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.config import TaskConfig
from mpo_core.repro.tasks import load_task
from mpo_core.repro.tasks.glue import GLUE_TASKS, read_hub, read_tsv
from mpo_core.repro.tasks.task import Example, carve_select, subsample

DATA = Path(os.environ.get("MPO_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / "glue").is_dir(), reason=f"no GLUE files under {DATA} (set MPO_DATA)"),
]


def counts(examples):
    return dict(collections.Counter(example.label for example in examples))


def all_train(task):
    return task.splits["train"] + task.splits["select"]


class TestRealFiles:
    pytestmark = needs_data

    @pytest.mark.parametrize(
        ("name", "train", "held_out"),
        [
            ("cola", {1: 6023, 0: 2528}, {1: 721, 0: 322}),
            ("sst2", {1: 37569, 0: 29780}, {1: 444, 0: 428}),
            ("mrpc", {1: 2474, 0: 1194}, {1: 279, 0: 129}),
            ("rte", {0: 1249, 1: 1241}, {0: 146, 1: 131}),
            ("wnli", {1: 312, 0: 323}, {1: 31, 0: 40}),
            ("qnli", {0: 4523, 1: 4476}, {0: 2702, 1: 2761}),
        ],
    )
    def test_label_counts(self, name, train, held_out):
        task = load_task(TaskConfig(name=name), DATA)
        assert counts(all_train(task)) == train
        assert counts(task.splits["eval"]) == held_out
        assert (task.kind, task.num_labels) == ("classification", 2)

    def test_mnli_and_qqp_samples_say_that_they_are_samples(self):
        mnli, qqp = (load_task(TaskConfig(name=name), DATA) for name in ("mnli", "qqp"))
        assert counts(all_train(mnli)) == {0: 3061, 1: 2980, 2: 2958}
        assert counts(all_train(qqp)) == {0: 5747, 1: 3252}
        assert len(mnli.splits["eval"]) == len(qqp.splits["eval"]) == 1000
        assert "do not compare" in mnli.source
        assert mnli.num_labels == 3

    def test_stsb_is_regression(self):
        task = load_task(TaskConfig(name="stsb"), DATA)
        assert (len(all_train(task)), len(task.splits["eval"])) == (5749, 1500)
        assert (task.kind, task.num_labels, task.metrics) == ("regression", 1, ("pearson", "spearman"))
        first = task.splits["eval"][0]
        assert first == Example(("A man with a hard hat is dancing.", "A man wearing a hard hat is dancing."), 5.0)

    def test_texts_are_the_columns_of_the_readme(self):
        assert read_tsv(DATA / "glue/CoLA/dev.tsv", GLUE_TASKS["cola"])[0] == Example(
            ("The sailors rode the breeze clear of the rocks.",), 1
        )
        mrpc = read_tsv(DATA / "glue/MRPC/dev.tsv", GLUE_TASKS["mrpc"])[0]
        assert mrpc.label == 1
        assert mrpc.texts[1].startswith('" The foodservice pie business')  # a quote that is not quoting

    def test_select_is_fixed_and_taken_out_of_train(self):
        one = load_task(TaskConfig(name="rte"), DATA)
        two = load_task(TaskConfig(name="rte", train_size=100, eval_size=50), DATA)
        assert len(one.splits["select"]) == 249
        assert one.splits["select"] == two.splits["select"]
        assert len(two.splits["train"]) == 100
        assert len(two.splits["eval"]) == 50
        assert set(two.splits["train"]) <= set(one.splits["train"])
        assert not set(one.splits["train"]) & set(one.splits["select"])


def write_rte(folder, rows, name="train.tsv"):
    file = folder / "glue" / "RTE" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return file


def test_hub_rows_and_file_rows_give_the_same_examples(tmp_path):
    file = write_rte(tmp_path, ['0\tHe said "no.\tHe spoke.\tentailment', "1\tnull\tnan\tnot_entailment"])
    hub = datasets.Dataset.from_dict(
        {
            "sentence1": ['He said "no.', "null"],
            "sentence2": ["He spoke.", "nan"],
            "label": [0, 1],
            "idx": [0, 1],
        },
        features=datasets.Features(
            sentence1=datasets.Value("string"),
            sentence2=datasets.Value("string"),
            label=datasets.ClassLabel(names=["entailment", "not_entailment"]),
            idx=datasets.Value("int32"),
        ),
    )
    form = GLUE_TASKS["rte"]
    assert read_hub(hub, form) == read_tsv(file, form)


def test_hub_columns_of_mnli_and_stsb():
    mnli = datasets.Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [2], "idx": [0]})
    assert read_hub(mnli, GLUE_TASKS["mnli"]) == [Example(("a", "b"), 2)]
    stsb = datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [3.8], "idx": [0]})
    assert read_hub(stsb, GLUE_TASKS["stsb"]) == [Example(("a", "b"), 3.8)]


def test_gzip_and_byte_order_mark(tmp_path):
    text = "\ufeffindex\tsentence1\tsentence2\tlabel\r\n0\ta\tb\tentailment\r\n"
    file = tmp_path / "train.tsv.gz"
    file.write_bytes(gzip.compress(text.encode()))
    assert read_tsv(file, GLUE_TASKS["rte"]) == [Example(("a", "b"), 0)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1\ta\tb", "line 3: expected 4 columns, found 3"),
        ("", "line 3: expected 4 columns, found 1"),
        ("1\ta\tb\tmaybe", "line 3: expected a label of entailment, not_entailment, found 'maybe'"),
    ],
)
def test_bad_rows_name_file_line_and_reason(tmp_path, row, reason):
    file = write_rte(tmp_path, ["0\ta\tb\tentailment", row, "2\ta\tb\tentailment"])
    with pytest.raises(InputFileError) as caught:
        read_tsv(file, GLUE_TASKS["rte"])
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("score", ["5.5", "-1", "nan", "high", ""])
def test_scores_outside_the_scale_are_refused(tmp_path, score):
    file = tmp_path / "dev.tsv"
    file.write_text(f"sentence1\tsentence2\tscore\na\tb\t{score}\n")
    with pytest.raises(InputFileError, match="line 2: expected a score from 0 to 5"):
        read_tsv(file, GLUE_TASKS["stsb"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected a column"),
        (b"index\tsentence1\tlabel\n", "expected a column 'sentence2'"),
        (b"index\tsentence1\tsentence2\tlabel\n", "holds no examples"),
        (b"index\tsentence1\tsentence2\tlabel\n0\t\xff\tb\tentailment\n", "is not UTF-8 at byte 34"),
    ],
)
def test_files_that_are_no_such_table(tmp_path, content, reason):
    file = tmp_path / "train.tsv"
    file.write_bytes(content)
    with pytest.raises(InputFileError, match=reason):
        read_tsv(file, GLUE_TASKS["rte"])


def test_broken_gzip_is_one_sentence(tmp_path):
    file = tmp_path / "train.tsv.gz"
    file.write_bytes(gzip.compress(b"index\n" * 1000)[:30])
    with pytest.raises(InputFileError, match="cannot be read"):
        read_tsv(file, GLUE_TASKS["rte"])


def test_carve_select_is_a_partition_and_defaults_to_a_tenth_at_most_500():
    rest, part = carve_select(range(100), None)
    assert len(part) == 10
    assert sorted(rest + part) == list(range(100))
    assert len(carve_select(range(20000), None)[1]) == 500
    with pytest.raises(UsageError, match="leaves nothing"):
        carve_select(range(5), 5)


def test_subsamples_are_nested_and_in_order():
    small, large = subsample(range(1000), 10), subsample(range(1000), 200)
    assert set(small) < set(large)
    assert large == sorted(large)
    assert large != list(range(200))


def test_data_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputFileError, match=r"--data-dir names .* not a folder"):
        load_task(TaskConfig(name="rte"), tmp_path / "absent")


def test_unknown_task_names_the_known_ones():
    with pytest.raises(UsageError, match=r"'imdb'; known: cola, doctext"):
        load_task(TaskConfig(name="imdb"))


def test_offline_without_files_says_what_to_set_and_does_not_retry(tmp_path):
    code = (
        "from mpo_core.errors import InputFileError\n"
        "from mpo_core.repro.config import TaskConfig\n"
        "from mpo_core.repro.tasks import load_task\n"
        "try:\n    load_task(TaskConfig(name='rte'))\n"
        "except InputFileError as error:\n    print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MPO_DATA"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    (message,) = done.stdout.splitlines()
    assert message.startswith("the data set nyu-mll/glue (rte) cannot be had: no --data-dir or MPO_DATA is set")
    assert "offline mode is on" in message
    assert message.endswith("Give --data-dir (or set MPO_DATA) to a folder that has it, or go online.")
    assert done.stderr == ""  # no "Retrying in ...": the libraries' own attempts sleep 23 seconds
