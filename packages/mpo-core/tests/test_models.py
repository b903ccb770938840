"""Models: names, folders, damaged files, heads, seeds; with the real MiniLM and small models made here."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM

from mpo_core.errors import InputFileError, MissingPartError, UsageError
from mpo_core.repro import hub, models
from mpo_core.repro.models import build_model, load_model, load_tokenizer, resolve_model

SHARED = Path(__file__).resolve().parents[4] / "shared" / "models"
TINY = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=None,
)


def same_parameter(one, other, name):
    return torch.equal(one.get_parameter(name), other.get_parameter(name))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small decoder as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_model(TINY, "causal-lm", seed=1).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


class TestResolve:
    def test_minilm_is_found_without_running_its_package(self):
        before = set(sys.modules)
        location = Path(resolve_model("minilm"))
        assert (location / "config.json").is_file()
        assert models.MINILM_MODULE not in set(sys.modules) - before

    def test_minilm_without_the_package_names_the_extra(self, monkeypatch):
        monkeypatch.setattr(models, "MINILM_MODULE", "no_such_module_here")
        with pytest.raises(MissingPartError, match=r"mpo-core\[embedded\]"):
            resolve_model("minilm")

    @pytest.mark.parametrize("name", ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"])
    def test_hub_names_pass(self, name):
        assert resolve_model(name) == name

    def test_folder(self, saved):
        assert resolve_model(str(saved)) == str(saved)

    @pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent", "a/b/c", "folder/", "", "two words"])
    def test_what_is_neither(self, name):
        with pytest.raises(InputFileError, match="expected a model folder, a hub name"):
            resolve_model(name)

    def test_file(self, saved):
        with pytest.raises(InputFileError, match="is a file, expected a model folder"):
            resolve_model(str(saved / "config.json"))

    def test_folder_without_configuration(self, tmp_path):
        with pytest.raises(InputFileError, match=r"is no model folder: it has no config\.json"):
            resolve_model(str(tmp_path))

    def test_compressed_folder(self, folder):
        (folder / "mpo.json").write_text("{}")
        with pytest.raises(InputFileError, match=r"already compressed model.* merge it first"):
            resolve_model(str(folder))

    def test_pickled_weights_are_named_and_not_read(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(InputFileError, match=r"only pytorch_model\.bin, a pickle"):
            resolve_model(str(folder))

    @pytest.mark.parametrize("keep", [0, 7, 500, -1])
    def test_truncated_weights_name_the_file(self, folder, keep):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(InputFileError, match=r"model\.safetensors is damaged"):
            load_model(str(folder), "own")

    def test_weights_that_are_something_else(self, folder):
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n" * 9)
        with pytest.raises(InputFileError, match=r"model\.safetensors is damaged"):
            resolve_model(str(folder))

    @pytest.mark.parametrize(
        ("index", "reason"),
        [
            ('{"weight_map": {"a": "model-1.safetensors"}}', "names model-1"),
            ("[]", "no index"),
            ("{", "no index"),
        ],
    )
    def test_bad_index(self, folder, index, reason):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(InputFileError, match=reason):
            resolve_model(str(folder))

    def test_shards(self, tmp_path):
        model = build_model(TINY, "causal-lm", seed=1)
        model.save_pretrained(tmp_path, max_shard_size="5KB")
        shards = sorted(tmp_path.glob("model-*.safetensors"))
        assert len(shards) > 1
        assert torch.equal(
            load_model(str(tmp_path), "own").get_parameter("lm_head.weight"),
            model.get_parameter("lm_head.weight"),
        )
        shards[1].write_bytes(shards[1].read_bytes()[:-4])
        with pytest.raises(InputFileError, match=shards[1].name):
            resolve_model(str(tmp_path))


class TestLoad:
    @pytest.mark.parametrize(
        ("head", "expected"),
        [("own", "BertModel"), ("backbone", "BertModel"), ("masked-lm", "BertForMaskedLM")],
    )
    def test_heads_of_minilm(self, head, expected):
        model = load_model("minilm", head)
        assert type(model).__name__ == expected
        assert not model.training

    def test_minilm_is_the_trained_model(self):
        model, tokenizer = load_model("minilm", "own"), load_tokenizer("minilm")
        assert sum(p.numel() for p in model.parameters()) == 22_713_216
        texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply."]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.4

    def test_new_head_is_drawn_from_the_seed_alone(self):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        one, same, other = (load_model("minilm", "classification", num_labels=3, seed=s) for s in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert same_parameter(one, same, "classifier.weight")
        assert not torch.equal(one.get_parameter("classifier.weight"), other.get_parameter("classifier.weight"))
        assert one.get_parameter("classifier.weight").shape == (3, 384)
        assert one.get_parameter("classifier.weight").std().item() == pytest.approx(0.02, rel=0.1)
        assert torch.equal(
            one.get_parameter("bert.pooler.dense.weight"), other.get_parameter("bert.pooler.dense.weight")
        )

    def test_one_label_is_regression(self):
        model = load_model("minilm", "classification", num_labels=1)
        ids = torch.tensor([[101, 2054, 102]])
        out = model(input_ids=ids, labels=torch.tensor([2.5]))
        assert out.loss.item() == pytest.approx((out.logits.item() - 2.5) ** 2, rel=1e-5)

    def test_head_of_another_size_is_made_new_from_the_seed(self, tmp_path):
        build_model(TINY, "classification", 2).save_pretrained(tmp_path)
        one, same, other = (load_model(str(tmp_path), "classification", num_labels=3, seed=s) for s in (1, 1, 2))
        assert one.get_parameter("score.weight").shape == (3, 16)
        assert same_parameter(one, same, "score.weight")
        assert not same_parameter(one, other, "score.weight")
        kept = load_model(str(tmp_path), "own")
        assert torch.equal(
            kept.get_parameter("score.weight"),
            build_model(TINY, "classification", 2).get_parameter("score.weight"),
        )

    def test_causal_head_on_an_encoder_is_refused(self):
        with pytest.raises(UsageError, match="use the head masked-lm"):
            load_model("minilm", "causal-lm")

    def test_own_decoder_keeps_every_weight(self, saved):
        model = load_model(str(saved), "own")
        assert isinstance(model, LlamaForCausalLM)
        made = build_model(TINY, "causal-lm", seed=1)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), made.parameters(), strict=True))

    def test_dtype(self, saved):
        assert load_model(str(saved), "own").dtype == torch.float32
        assert load_model(str(saved), "own", dtype=torch.bfloat16).dtype == torch.bfloat16

    def test_decoder_without_pad_token_classifies_padded_batches(self, saved):
        model = load_model(str(saved), "classification", num_labels=2)
        pad = model.config.pad_token_id
        assert pad == TINY.eos_token_id
        long, short = [5, 6, 7, 8], [9, 10]
        ids = torch.tensor([long, [*short, pad, pad]])
        with torch.no_grad():
            together = model(input_ids=ids, attention_mask=(ids != pad).long()).logits[1]
            alone = model(input_ids=torch.tensor([short])).logits[0]
        assert torch.allclose(together, alone, atol=1e-5)

    def test_new_parameters_are_one_log_line_and_nothing_is_printed(self, saved, caplog, capfd):
        with caplog.at_level(logging.INFO, logger=models.__name__):
            load_model(str(saved), "classification")
        assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
            "1 new parameters, drawn from the seed: score.weight"
        ]
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"hidden_size": 32}, r"do not fit its config.json: \S+ has shape \(.*16.*\), expected \(.*32"),
            ({"model_type": "no-such-type"}, "cannot be read: .*no-such-type"),
            ({"num_attention_heads": 3}, "cannot be read"),
            ({"vocab_size": "many"}, "cannot be read"),
        ],
    )
    def test_configuration_that_does_not_fit(self, folder, change, reason):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(InputFileError, match=reason) as caught:
            load_model(str(folder), "own")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("text", ["{", "[]", ""])
    def test_configuration_that_is_no_json_object(self, folder, text):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputFileError, match="cannot be read"):
            load_model(str(folder), "own")

    def test_weights_of_another_architecture_are_refused(self, folder):
        bert = BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        bert.save_pretrained(folder)
        with pytest.raises(InputFileError, match="parameters are not there"):
            load_model(str(folder), "backbone")

    def test_remote_code_is_not_run(self, folder):
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        file = folder / "config.json"
        remote = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
        file.write_text(json.dumps(json.loads(file.read_text()) | remote))
        with pytest.raises(InputFileError, match="cannot be read"):
            load_model(str(folder), "own")

    def test_unknown_head_and_labels(self, saved):
        with pytest.raises(UsageError, match="unknown head 'lm'; known: own"):
            load_model(str(saved), "lm")  # pyright: ignore[reportArgumentType]
        with pytest.raises(UsageError, match="at least 1, found 0"):
            load_model(str(saved), "classification", num_labels=0)


class TestBuild:
    def test_meta_counts_without_memory(self):
        config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
        model = build_model(config, "causal-lm", meta=True)
        assert model.device.type == "meta"
        assert sum(p.numel() for p in model.parameters()) == 6_738_415_616  # LLaMA-7B (Touvron et al. 2023)

    def test_folder_needs_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        model = build_model(folder, "classification", 3, seed=2)
        assert model.get_parameter("score.weight").shape == (3, 16)

    def test_seed(self):
        one, same, other = (build_model(TINY, "causal-lm", seed=s).get_parameter("lm_head.weight") for s in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_configuration_given_is_not_changed(self):
        config = LlamaConfig(**TINY.to_dict())
        build_model(config, "classification", 5)
        assert (config.num_labels, config.pad_token_id) == (2, None)


class TestTokenizer:
    @pytest.mark.data
    @pytest.mark.skipif(not (SHARED / "gpt2-tokenizer").is_dir(), reason="shared/models/gpt2-tokenizer is absent")
    def test_folder_without_weights_or_pad_token(self):
        tokenizer = load_tokenizer(str(SHARED / "gpt2-tokenizer"))
        assert tokenizer("Hello world!")["input_ids"] == [15496, 995, 0]
        assert tokenizer.pad_token == tokenizer.eos_token

    def test_folder_without_tokenizer(self, saved):
        with pytest.raises(InputFileError, match="tokenizer"):
            load_tokenizer(str(saved))

    def test_damaged_tokenizer(self, tmp_path):
        source = Path(resolve_model("minilm"))
        for name in ("config.json", "tokenizer_config.json"):
            shutil.copy(source / name, tmp_path)
        (tmp_path / "tokenizer.json").write_text('{"model": ')
        with pytest.raises(InputFileError, match="tokenizer"):
            load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on (HF_HUB_OFFLINE)"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
    ],
)
def test_hub_name_without_the_hub_is_one_sentence_at_once(tmp_path, setting, reason):
    code = (
        "from mpo_core.errors import InputFileError\n"
        "from mpo_core.repro.models import load_model, load_tokenizer\n"
        "for call in (lambda: load_model('owner/unknown', 'own'), lambda: load_tokenizer('owner/unknown')):\n"
        "    try:\n        call()\n"
        "    except InputFileError as error:\n        print(error)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path)} | setting
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("the model 'owner/unknown' is no folder here and cannot be had from the Hugging Face hub")
    assert second.startswith("the tokenizer 'owner/unknown' is no folder here")
    assert reason in first
    assert done.stderr == ""  # no "Retrying in ...": the libraries' own attempts sleep 23 seconds a call


def test_local_models_do_not_ask_the_hub(saved):
    hub.hub_reachable.cache_clear()
    load_model(str(saved), "own")
    load_tokenizer("minilm")
    build_model(TINY, "backbone")
    assert hub.hub_reachable.cache_info().misses == 0
