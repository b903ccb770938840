import pytest
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from mpo_core import UsageError
from mpop.baselines import train_last_layers


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
