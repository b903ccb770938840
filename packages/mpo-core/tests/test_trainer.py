"""The two lines of a user, on transformers' Trainer and on accelerate, with real training on the CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from mpo_core.adapters.adoption import MPOConfig, MPOModel, get_mpo_model
from mpo_core.models.surgery import mpo_layers
from mpo_core.repro.models import MINILM_MODULE, load_model, load_tokenizer

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            initializer_range=0.2,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=20,
            n_positions=16,
            n_embd=16,
            n_layer=1,
            n_head=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config.from_dict(
            {
                "vocab_size": 20,
                "d_model": 16,
                "d_kv": 8,
                "d_ff": 32,
                "num_layers": 1,
                "num_heads": 2,
                "decoder_start_token_id": 0,
            }
        )
    ),
}


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return BUILDERS[name]()


def adapted(name: str, **options: Any) -> MPOModel:
    saved = ["classifier"] if name == "bert" else []
    return get_mpo_model(build(name), MPOConfig(**{"n": 3, "modules_to_save": saved, **options}))


def examples(name: str, count: int = 32) -> Any:
    """The second token tells the label; decoders repeat the first tokens."""
    generator = torch.Generator().manual_seed(3)
    found: list[dict[str, Any]] = []
    for index in range(count):
        ids = torch.randint(5, 20, (6,), generator=generator)
        ids[1] = 3 + index % 2
        labels: Any = torch.tensor(index % 2) if name == "bert" else ids.clone()
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return found


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    plain: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "seed": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
    }
    kind = Seq2SeqTrainingArguments if "predict_with_generate" in options else TrainingArguments
    return kind(**{**plain, **options})


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {key: p.detach().clone() for key, p in model.named_parameters()}


@torch.no_grad()
def logits(model: nn.Module, name: str) -> Tensor:
    batch = {key: torch.stack([e[key] for e in examples(name, 4)]) for key in ("input_ids", "labels")}
    return model.eval()(**batch).logits


@pytest.fixture(params=BUILDERS.keys())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# -- Trainer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bonds", [None, 4])
def test_two_lines_train_a_model(name: str, bonds: int | None, tmp_path: Path) -> None:
    model = adapted(name, bonds=bonds)
    before = values(model)
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    trainer = Trainer(model=model, args=arguments(tmp_path, max_steps=16), train_dataset=examples(name))
    trainer.train()
    steps = losses(trainer)
    assert len(steps) == 16
    assert all(math.isfinite(loss) for loss in steps)
    assert sum(steps[-4:]) < 0.97 * sum(steps[:4])
    moved = {key for key, value in values(model).items() if not torch.equal(value, before[key])}
    assert moved <= trained
    assert len(moved) > 0.9 * len(trained)

    expected = logits(model, name)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(MPOModel.from_pretrained(build(name), tmp_path / "adapter"), name), expected)


def test_the_trainer_sees_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    """At full bonds, the first loss, the label names and the treatment of labels are those of the dense model."""
    seen: list[Any] = []
    measured: list[tuple[float, float]] = []
    smoothing = 0.0 if name == "t5" else 0.1  # transformers takes T5's labels away with smoothing
    for model in (build(name), adapted(name)):
        args = arguments(tmp_path, max_steps=1, label_smoothing_factor=smoothing)
        trainer = Trainer(model=model, args=args, train_dataset=examples(name, 8), eval_dataset=examples(name, 8))
        evaluated = trainer.evaluate()["eval_loss"]
        trainer.train()
        seen.append((trainer.label_names, trainer.can_return_loss, trainer.model_accepts_loss_kwargs))
        measured.append((evaluated, losses(trainer)[0]))
    assert seen[0] == seen[1]
    assert "labels" in seen[1][0]
    assert measured[1] == pytest.approx(measured[0], rel=1e-5)


def test_a_run_resumes_from_a_checkpoint_to_the_bit(name: str, tmp_path: Path) -> None:
    whole = Trainer(
        model=adapted(name, bonds=4),
        args=arguments(tmp_path / "run", max_steps=6, save_strategy="steps", save_steps=3),
        train_dataset=examples(name),
    )
    whole.train()
    rest = Trainer(
        model=adapted(name, bonds=4),
        args=arguments(tmp_path / "run", max_steps=6, save_strategy="steps", save_steps=3),
        train_dataset=examples(name),
    )
    rest.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert losses(rest) == losses(whole)
    assert all(torch.equal(value, values(whole.model)[key]) for key, value in values(rest.model).items())  # pyright: ignore


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    args = arguments(
        tmp_path,
        max_steps=6,
        learning_rate=0.3,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    model = adapted("bert")
    trainer = Trainer(model=model, args=args, train_dataset=examples("bert"), eval_dataset=examples("bert", 8))
    trainer.train()
    measured = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(measured) == 6
    assert trainer.state.best_metric == min(measured) < measured[-1]
    assert trainer.evaluate()["eval_loss"] == min(measured)


def test_what_the_trainer_saves_can_be_loaded_by_the_same_two_lines(name: str, tmp_path: Path) -> None:
    """Trainer writes the whole state dict, ties once, as it does for every model that is not its own."""
    model = adapted(name)
    trainer = Trainer(model=model, args=arguments(tmp_path, max_steps=2), train_dataset=examples(name))
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    assert sum(value.numel() for value in tensors.values()) == sum(p.numel() for p in model.parameters())
    other = adapted(name)
    other.load_state_dict(tensors)
    assert torch.equal(logits(other, name), logits(model, name))


def test_recomputing_activations_gives_the_same_training(tmp_path: Path) -> None:
    known = TrainingArguments.__dataclass_fields__  # the option was renamed
    option = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)
    runs: list[list[float]] = []
    for options in ({}, {option: True}):
        args = arguments(tmp_path, max_steps=3, gradient_accumulation_steps=2, **options)
        trainer = Trainer(model=adapted("gpt2"), args=args, train_dataset=examples("gpt2"))
        trainer.train()
        runs.append(losses(trainer))
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)


def test_mixed_precision(tmp_path: Path) -> None:
    model = adapted("bert")
    trainer = Trainer(model=model, args=arguments(tmp_path, max_steps=12, bf16=True), train_dataset=examples("bert"))
    trainer.train()
    assert sum(losses(trainer)[-4:]) < sum(losses(trainer)[:4])
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_sequence_to_sequence_training_generates(tmp_path: Path) -> None:
    """The collator asks the model for decoder inputs, the trainer sets the generation configuration on it."""
    model = adapted("t5")
    data: Any = [{"input_ids": e["input_ids"].tolist(), "labels": e["labels"].tolist()} for e in examples("t5")]
    generation = copy.deepcopy(model.generation_config)
    generation.max_length = 5
    args: Any = arguments(tmp_path, max_steps=2, predict_with_generate=True, generation_config=generation)
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data[:4],
        data_collator=Collator(model),
    )
    trainer.train()
    predictions: Any = trainer.predict(data[:4]).predictions
    assert predictions.shape == (4, 5)


class Collator(DataCollatorForSeq2Seq):
    """Without a tokenizer: all rows have one length here."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, features: Any, return_tensors: Any = None) -> dict[str, Tensor]:
        labels = torch.tensor([feature["labels"] for feature in features])
        ids = torch.tensor([feature["input_ids"] for feature in features])
        prepared: Any = self.model
        decoder = prepared.prepare_decoder_input_ids_from_labels(labels=labels)
        return {"input_ids": ids, "labels": labels, "decoder_input_ids": decoder}


# -- accelerate and torch ----------------------------------------------------------------------------------


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, name: str, backward: Callable[[Tensor], None],
          count: int) -> list[float]:  # fmt: skip
    batch = {key: torch.stack([e[key] for e in examples(name, 8)]) for key in ("input_ids", "labels")}
    found: list[float] = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = model(**batch).loss
        backward(loss)
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_accelerate_saves_and_loads_its_state(name: str, accelerator: Accelerator, tmp_path: Path) -> None:
    model = adapted(name, bonds=4).eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    steps(prepared, prepared_optimizer, name, accelerator.backward, 2)
    accelerator.save_state(str(tmp_path / "state"))
    expected = steps(prepared, prepared_optimizer, name, accelerator.backward, 3)
    assert expected[-1] < expected[0]
    accelerator.load_state(str(tmp_path / "state"))
    assert steps(prepared, prepared_optimizer, name, accelerator.backward, 3) == expected
    unwrapped = accelerator.unwrap_model(prepared)
    assert isinstance(unwrapped, MPOModel)
    unwrapped.save_pretrained(tmp_path / "adapter", is_main_process=accelerator.is_main_process)
    loaded = MPOModel.from_pretrained(build(name).eval(), tmp_path / "adapter")
    assert torch.equal(logits(loaded, name), logits(unwrapped, name))


def test_accelerate_saves_the_model(accelerator: Accelerator, tmp_path: Path) -> None:
    model = adapted("gpt2")
    accelerator.save_model(accelerator.prepare(model), str(tmp_path))
    other = adapted("gpt2", gauge="left")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(logits(other, "gpt2"), logits(model, "gpt2"))


def test_distributed_data_parallel_wraps_it(tmp_path: Path) -> None:
    """One process is enough to see that tied and frozen cores, buckets and state dicts get along."""
    store = FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        plain = adapted("gpt2").eval()
        model = copy.deepcopy(plain)
        parallel = DistributedDataParallel(model, find_unused_parameters=True)
        runs = []
        for each in (plain, parallel):
            optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1)
            runs.append(steps(each, optimizer, "gpt2", lambda loss: loss.backward(), 3))
        assert runs[0] == runs[1]
        assert parallel.module is model
        assert parallel.module.config.n_embd == 16
        state = parallel.state_dict()
        assert {key.removeprefix("module.") for key in state} == set(plain.state_dict())
        parallel.load_state_dict(state)
    finally:
        torch.distributed.destroy_process_group()


def test_what_trains_is_a_small_share_of_a_wider_model(tmp_path: Path) -> None:
    """At width 256, the auxiliary tensors and the head are a small share, in memory and in the file."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=1000, hidden_size=256, num_hidden_layers=2, num_attention_heads=4)
    base = BertForSequenceClassification(config)
    dense = sum(p.numel() for p in base.parameters())
    model = get_mpo_model(base, MPOConfig(modules_to_save=["classifier"]))
    trained, total = model.get_nb_trainable_parameters()
    assert trained < 0.2 * dense
    assert total < 1.2 * dense
    model.save_pretrained(tmp_path)
    assert (tmp_path / "mpo_model.safetensors").stat().st_size < 4.1 * trained
    assert len(mpo_layers(base)) == 2 * 6 + 3 + 1


@pytest.mark.skipif(find_spec(MINILM_MODULE) is None, reason="the package with MiniLM is not installed")
def test_a_really_trained_encoder_learns_and_comes_back(tmp_path: Path) -> None:
    def minilm() -> PreTrainedModel:
        return load_model("minilm", "classification", num_labels=2)

    texts = ["good film", "a bad, dull mess", "wonderful and moving", "terrible acting"]
    batch = load_tokenizer("minilm")(texts, padding=True, return_tensors="pt")
    labels = torch.tensor([1, 0, 1, 0])
    base = minilm()
    dense = sum(p.numel() for p in base.parameters())
    with torch.no_grad():
        before = base(**batch).logits
    model = get_mpo_model(base, MPOConfig(modules_to_save=["classifier"]))
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, before)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
    found: list[float] = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.5 * found[0]
    model.save_pretrained(tmp_path)
    assert (tmp_path / "mpo_model.safetensors").stat().st_size < 0.09 * 4 * dense
    loaded = MPOModel.from_pretrained(minilm(), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
