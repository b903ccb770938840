import sys

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from mpo_core import MissingPartError, UsageError, count_parameters, find_targets, mpo_layers
from mpop.baselines import add_lora, keep_blocks, train_biases, train_last_layers
from mpop.config import DEFAULT_EXCLUDE, Compression
from mpop.model import compress_model


def bert():
    config = BertConfig(num_hidden_layers=4, hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    return BertForSequenceClassification(config)


def test_only_the_last_blocks_pooler_and_head_train():
    model = bert()
    train_last_layers(model, 2)
    trained = {name.split(".weight")[0].split(".bias")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[3] for name in trained if "encoder" in name} == {"2", "3"}
    assert {"bert.pooler.dense", "classifier"} <= trained
    assert not any("embeddings" in name for name in trained)


@pytest.mark.parametrize("layers", [0, 5])
def test_a_number_of_layers_out_of_range_is_refused(layers):
    model = bert()
    with pytest.raises(UsageError, match="4 blocks"):
        train_last_layers(model, layers)


def test_albert_has_one_group_of_layers():
    config = AlbertConfig(
        embedding_size=4,
        num_hidden_layers=3,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=30,
    )
    model = AlbertForSequenceClassification(config)
    with pytest.raises(UsageError, match="1 block"):
        train_last_layers(model, 2)


IDS = torch.randint(30, (3, 7), generator=torch.Generator().manual_seed(0))


def test_dropped_blocks_are_gone_and_the_others_keep_their_order():
    model = bert().eval()
    kept = [model.bert.encoder.layer[index] for index in (0, 2)]
    before = count_parameters(model).total
    keep_blocks(model, (0, 2))
    assert list(model.bert.encoder.layer) == kept
    assert model.config.num_hidden_layers == 2
    assert count_parameters(model).total < before
    assert model(IDS).logits.isfinite().all()


@pytest.mark.parametrize("kept", [(), (2, 1), (0, 4), (1, 1), (-1,)])
def test_blocks_that_there_are_not_are_refused(kept):
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        keep_blocks(bert(), kept)


def test_bitfit_trains_biases_and_the_head():
    model = bert()
    train_biases(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"classifier.weight", "classifier.bias"} <= trained
    assert all(name.endswith("bias") or name.startswith("classifier") for name in trained)
    assert "bert.embeddings.LayerNorm.bias" in trained


def test_lora_trains_its_updates_and_the_head_and_changes_nothing_at_first():
    model = bert().eval()
    wanted = model(IDS).logits
    add_lora(model, find_targets(model, exclude=DEFAULT_EXCLUDE), 2)
    torch.testing.assert_close(model(IDS).logits, wanted)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("classifier") for name in trained)
    assert sum("lora_A" in name for name in trained) == 4 * 6 + 1  # six linear layers in a block, and the pooler
    model(IDS).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_lora_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPartError, match=r"mpop\[peft\]"):
        add_lora(bert(), [], 2)


def test_lora_needs_a_linear_layer():
    model = bert()
    with pytest.raises(UsageError, match="no linear layer"):
        add_lora(model, find_targets(model, ["*word_embeddings"]), 2)


def test_low_rank_shapes_are_truncated_singular_value_decompositions():
    torch.manual_seed(0)
    model = bert()
    name = "bert.encoder.layer.0.intermediate.dense"
    weight = model.get_parameter(f"{name}.weight").detach().clone()
    compress_model(model, Compression(shapes="low-rank", bond=3))
    layer = mpo_layers(model)[name]
    u, values, vh = torch.linalg.svd(weight.double())
    best = u[:, :3] * values[:3] @ vh[:3]
    torch.testing.assert_close(layer.weight.double(), best, rtol=0, atol=1e-6)
    assert sum(core.numel() for core in layer.cores) == 3 * sum(weight.shape)
