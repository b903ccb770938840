"""Encoding, batches and evaluation, with real tokenizers and models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mpo_core.errors import DivergedError, InputFileError, UsageError
from mpo_core.repro.models import load_model, load_tokenizer
from mpo_core.repro.tasks import (
    EncodedExample,
    Example,
    Masking,
    TextBatches,
    TextTask,
    encode_split,
    evaluate_task,
)
from mpo_core.repro.tasks.language_modelling import read_documents

STORIES = Path(__file__).resolve().parents[4] / "shared" / "models" / "stories260k"
needs_stories = [
    pytest.mark.data,
    pytest.mark.skipif(not STORIES.is_dir(), reason="shared/models/stories260k is absent"),
]


def make_task(texts, labels=None, kind="classification", metrics=("accuracy",), num_labels=2):
    labels = labels or [None] * len(texts)
    rows = [
        Example(text if isinstance(text, tuple) else (text,), label) for text, label in zip(texts, labels, strict=True)
    ]
    return TextTask("toy", kind, num_labels, (), {"train": rows, "select": [], "eval": rows}, metrics, "here")


def language_task(texts):
    return make_task(texts, kind="language-modelling", metrics=("perplexity", "loss"), num_labels=0)


def toy(lengths):
    return [EncodedExample([index + 1] * length, None, index % 2) for index, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def bert_tokenizer():
    return load_tokenizer("minilm")


class TestEncode:
    def test_pairs_have_token_types_and_single_texts_have_none(self, bert_tokenizer):
        pair = encode_split(make_task([("a b", "c")], [1]), "eval", bert_tokenizer, 16)[0]
        assert bert_tokenizer.convert_ids_to_tokens(pair.input_ids) == [
            "[CLS]",
            "a",
            "b",
            "[SEP]",
            "c",
            "[SEP]",
        ]
        assert (pair.token_type_ids, pair.label) == ([0, 0, 0, 0, 1, 1], 1)
        assert encode_split(make_task(["a b"], [1]), "eval", bert_tokenizer, 16)[0].token_type_ids is None

    def test_long_texts_are_cut(self, bert_tokenizer):
        row = encode_split(make_task(["word " * 100], [0]), "eval", bert_tokenizer, 10)[0]
        assert len(row) == 10
        assert row.input_ids[-1] == bert_tokenizer.sep_token_id

    def test_windows_hold_every_token_once(self, bert_tokenizer):
        texts = [" ".join(f"w{n} thing" for n in range(40)), "short text here"]
        windows = encode_split(language_task(texts), "eval", bert_tokenizer, 16)
        special = set(bert_tokenizer.all_special_ids)
        assert max(map(len, windows)) == 16
        assert sum(len(window) < 16 for window in windows) == 2  # the end of each document
        for window in windows:
            assert (window.input_ids[0], window.input_ids[-1]) == (101, 102)
        found = [token for window in windows for token in window.input_ids if token not in special]
        plain = [token for text in texts for token in bert_tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert found == plain

    def test_nothing_to_predict_and_unknown_split(self, bert_tokenizer):
        with pytest.raises(InputFileError, match="too short"):
            encode_split(language_task([""]), "eval", bert_tokenizer, 16)
        with pytest.raises(UsageError, match="no split 'test'"):
            encode_split(language_task(["a"]), "test", bert_tokenizer, 16)  # pyright: ignore[reportArgumentType]

    def test_empty_split_is_empty(self, bert_tokenizer):
        assert encode_split(make_task(["a"], [1]), "select", bert_tokenizer, 16) == []


class TestBatches:
    def test_each_example_once_an_epoch_and_order_of_seed_and_epoch_alone(self):
        lengths = torch.randint(2, 60, (333,), generator=torch.Generator().manual_seed(0)).tolist()
        batches, again = (TextBatches(toy(lengths), 4, 7, 0) for _ in range(2))
        assert len(batches) == 84 == len(list(batches.epoch(0)))
        torch.manual_seed(3)
        assert again.order(2) == batches.order(2) == batches.order(2)
        assert batches.order(0) != batches.order(1)
        assert TextBatches(toy(lengths), 4, 8, 0).order(1) != batches.order(1)
        for epoch in (0, 1):
            assert sorted(index for batch in batches.order(epoch) for index in batch) == list(range(333))

    def test_bucketing_saves_padding_and_still_mixes_lengths(self):
        lengths = torch.randint(2, 100, (800,), generator=torch.Generator().manual_seed(0)).tolist()
        shares = [1 - b["attention_mask"].float().mean().item() for b in TextBatches(toy(lengths), 8, 0, 0).epoch(0)]
        assert sum(shares) / len(shares) < 0.06  # shuffled alone it is about 0.43
        widths = [b["input_ids"].shape[1] for b in TextBatches(toy(lengths), 8, 0, 0).epoch(0)]
        assert widths != sorted(widths)

    def test_padding_masks_and_labels(self):
        rows = [EncodedExample([5, 6, 7], [0, 0, 1], 1), EncodedExample([8], [1], 0)]
        (batch,) = TextBatches(rows, 2, 0, 9, shuffle=False).epoch(0)
        assert batch["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7]]
        assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
        assert batch["token_type_ids"].tolist() == [[1, 0, 0], [0, 0, 1]]
        assert batch["labels"].tolist() == [0, 1]
        assert batch["labels"].dtype == torch.long

    def test_regression_labels_are_floats_and_causal_labels_skip_padding(self):
        (batch,) = TextBatches([EncodedExample([1], None, 2)], 1, 0, 0, kind="regression").epoch(0)
        assert batch["labels"].dtype == torch.float32
        rows = [EncodedExample([5, 9, 7], None, None), EncodedExample([8], None, None)]
        (batch,) = TextBatches(rows, 2, 0, 9, shuffle=False, kind="language-modelling").epoch(0)
        assert batch["labels"].tolist() == [[8, -100, -100], [5, 9, 7]]  # 9 in the text is no padding

    @pytest.mark.parametrize(("rows", "size", "reason"), [([], 1, "no examples"), (toy([2]), 0, "at least 1")])
    def test_wrong_use(self, rows, size, reason):
        with pytest.raises(UsageError, match=reason):
            TextBatches(rows, size, 0, 0)


class TestMasking:
    masking = Masking(mask_token_id=3, vocab_size=1000, special_ids=(0, 1, 2, 3))

    def batches(self, seed=0):
        generator = torch.Generator().manual_seed(1)
        rows = [[1, *torch.randint(4, 1000, (62,), generator=generator).tolist(), 2] for _ in range(200)]
        encoded = [EncodedExample(row, None, None) for row in rows]
        return TextBatches(encoded, 50, seed, 0, kind="language-modelling", masking=self.masking)

    def test_shares_are_those_of_bert(self):
        hidden = masked = kept = total = 0
        batches = self.batches()
        for batch, order in zip(batches.epoch(0), batches.order(0), strict=True):
            plain = torch.tensor([batches.encoded[index].input_ids for index in order])
            chosen = batch["labels"] != -100
            assert torch.equal(batch["labels"][chosen], plain[chosen])
            assert torch.equal(batch["input_ids"][~chosen], plain[~chosen])
            assert not chosen[:, [0, -1]].any()
            hidden += int(chosen.sum())
            masked += int((batch["input_ids"][chosen] == 3).sum())
            kept += int((batch["input_ids"][chosen] == plain[chosen]).sum())
            total += 62 * len(order)
        assert hidden / total == pytest.approx(0.15, abs=0.015)
        assert masked / hidden == pytest.approx(0.8, abs=0.04)
        assert kept / hidden == pytest.approx(0.1, abs=0.03)

    def test_masks_are_of_seed_and_epoch_alone(self):
        def labels(seed, epoch):
            return torch.cat([batch["labels"] for batch in self.batches(seed).epoch(epoch)])

        assert torch.equal(labels(0, 1), labels(0, 1))
        assert not torch.equal(labels(0, 1), labels(0, 2))

    def test_every_row_hides_one_token_at_least(self):
        encoded = [EncodedExample([1, token, 2], None, None) for token in range(4, 60)]
        batches = TextBatches(encoded, 8, 0, 0, kind="language-modelling", masking=self.masking)
        for batch in batches.epoch(0):
            assert (batch["labels"] != -100).sum(dim=1).tolist() == [1] * 8

    def test_tokenizer_without_mask_is_refused(self, bert_tokenizer):
        assert Masking.of(bert_tokenizer).mask_token_id == 103
        other = load_tokenizer("minilm")
        other.mask_token = None
        with pytest.raises(UsageError, match="none"):
            Masking.of(other)


class Constant(nn.Module):
    """Gives the same logits for every example."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.logits.expand(len(input_ids), -1))


class TestEvaluate:
    def test_constant_classifier(self):
        task = make_task(["a"], [1], metrics=("accuracy", "mcc", "f1"))
        model = Constant([0.0, 1.0]).train()
        values = evaluate_task(model, toy([3, 2, 5, 4, 9]), task, 2, "select")
        assert {name: m.value for name, m in values.items()} == {
            "accuracy": 0.4, "mcc": 0.0, "f1": pytest.approx(2 * 0.4 / 1.4),
        }  # fmt: skip
        assert all((m.n, m.split) == (5, "select") for m in values.values())
        assert model.training

    def test_nan_is_not_reported(self):
        with pytest.raises(DivergedError):
            evaluate_task(Constant([0.0, math.nan]), toy([3]), make_task(["a"], [1]), 2, "eval")

    def test_examples_without_labels(self):
        with pytest.raises(UsageError, match="no labels"):
            evaluate_task(Constant([0.0, 1.0]), [EncodedExample([1], None, None)], make_task(["a"]), 2, "eval")

    def test_minilm_classifies_the_same_in_batches_as_one_by_one(self, bert_tokenizer):
        texts = ["good", "a very long and bad film that I did not like at all", "fine", "so so", "no"]
        model = load_model("minilm", "classification", num_labels=2, seed=4)
        with torch.no_grad():
            alone = [int(model(**bert_tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]
        task = make_task(texts, [alone[0], *(1 - label for label in alone[1:3]), *alone[3:]])
        values = evaluate_task(model, encode_split(task, "eval", bert_tokenizer, 32), task, 3, "eval")
        assert values["accuracy"].value == pytest.approx(0.6)

    def test_masked_model_needs_masking(self, bert_tokenizer):
        task = language_task(["The capital of France is a large city on a river, and it is old."])
        encoded = encode_split(task, "eval", bert_tokenizer, 32)
        model = load_model("minilm", "masked-lm")
        with pytest.raises(UsageError, match="needs masking"):
            evaluate_task(model, encoded, task, 2, "eval")
        one, two = (
            evaluate_task(model, encoded, task, 2, "eval", masking=Masking.of(bert_tokenizer)) for _ in range(2)
        )
        assert one == two
        assert one["perplexity"].value == pytest.approx(math.exp(one["loss"].value))


class TestStories:
    pytestmark = needs_stories

    def test_loss_is_the_documented_one(self):
        task = language_task(read_documents(STORIES / "tinystories_sample.txt"))
        encoded = encode_split(task, "eval", load_tokenizer(str(STORIES)), 512)
        model = load_model(str(STORIES), "own")
        values = evaluate_task(model, encoded, task, 2, "eval")
        assert values["loss"].value == pytest.approx(1.2664, abs=1e-4)
        assert values["loss"].n == 1804
        assert values["perplexity"].value == pytest.approx(math.exp(1.2664), rel=1e-4)
        single = evaluate_task(model, encoded, task, 1, "eval")
        assert single["loss"].value == pytest.approx(values["loss"].value, abs=1e-6)

    def test_training_loss_of_a_batch_is_the_measured_one(self):
        task = language_task(read_documents(STORIES / "tinystories_sample.txt"))
        tokenizer = load_tokenizer(str(STORIES))
        encoded = encode_split(task, "eval", tokenizer, 128)
        model = load_model(str(STORIES), "own")
        assert isinstance(tokenizer.pad_token_id, int)
        batches = TextBatches(encoded, len(encoded), 0, tokenizer.pad_token_id, kind="language-modelling")
        (batch,) = batches.epoch(0)
        with torch.no_grad():
            loss = model(**batch).loss.item()
        assert loss == pytest.approx(evaluate_task(model, encoded, task, 4, "eval")["loss"].value, abs=1e-5)
