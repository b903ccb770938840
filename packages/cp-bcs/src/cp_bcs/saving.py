"""A network with its vocabularies as a folder: JSON and safetensors, nothing that could run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from cp_bcs.config import ModelConfig
from cp_bcs.encoding import Encoder
from cp_bcs.model import SummaryNetwork
from cp_bcs.pretrained import Reader
from cp_bcs.tokens import Pieces, Words
from mpo_core.errors import InputFileError
from mpo_core.repro.atomic import write_bytes_atomic

SCHEMA = 1
READER = "encoder"


def new_network(encoder: Encoder, seed: int) -> SummaryNetwork:
    """An untrained network; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SummaryNetwork(encoder.config, encoder)


def save_network(folder: Path, encoder: Encoder, network: SummaryNetwork) -> None:
    """Write ``network.json``, ``pieces.json``, ``weights.safetensors`` and a reader's folder into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "schema_version": SCHEMA,
        "model": network.config.model_dump(mode="json"),
        "words": encoder.words.known,
        "nodes": encoder.nodes.known,
    }
    write_bytes_atomic(folder / "pieces.json", encoder.pieces.tokenizer.to_str().encode())
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file({name: weights[name] for name in weights if name not in _SHARED}, folder / "weights.safetensors")
    if encoder.reader is not None:
        encoder.reader.save(folder / READER)
    write_bytes_atomic(folder / "network.json", json.dumps(told, ensure_ascii=False).encode())


def load_network(folder: Path) -> tuple[Encoder, SummaryNetwork]:
    """Read what `save_network` wrote; the network is in the mode `eval`.

    Raises:
        InputFileError: the folder holds no network, or a damaged one.
    """
    try:
        told: Any = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        config = ModelConfig.model_validate(told["model"])
        pieces = Pieces(_tokenizer(folder / "pieces.json"))
        reader = None if config.encoder is None else Reader.open(str(folder / READER), saved=True)
        encoder = Encoder(config, pieces, Words(tuple(told["nodes"])), Words(tuple(told["words"])), reader)
        network = SummaryNetwork(config, encoder)
        weights = load_file(folder / "weights.safetensors")
        weights |= {name: weights[other] for name, other in _SHARED.items() if other in weights}
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ValidationError, SafetensorError) as error:
        told = str(error).splitlines()
        raise InputFileError(
            f"{folder} holds no trained network that can be read ({told[0] if told else type(error).__name__})."
        ) from error
    return encoder, network.eval()


_SHARED = {"encoders.neighbours.words.weight": "decoder.words.weight"}
"""Vectors that two parts share are written once."""


def _tokenizer(path: Path) -> Tokenizer:
    text = path.read_text(encoding="utf-8")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path.name}: {error}") from error
