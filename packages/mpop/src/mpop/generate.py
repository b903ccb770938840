"""Text that a model writes itself: to tune its compressed form on, where its training text is not to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mpo_core import UsageError
from mpo_core.repro.atomic import write_bytes_atomic
from mpo_core.repro.tasks.language_modelling import DOCUMENT_MARK

BATCH = 64
FRUITLESS = 10
"""So many batches in a row without a document mean that there will be none."""


def generate_documents(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: int,
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Sample documents from a decoder, each from its start token on, without any cut of the distribution.

    Args:
        model: a causal language model.
        tokenizer: of the model.
        documents: how many.
        max_tokens: of each document; one that does not end before is cut there.
        temperature: divides the logits.
        seed: of the samples; the generators of the process are left as they were.

    Returns:
        The documents, none of them empty.

    Raises:
        UsageError: a model that does not generate, a tokenizer without a start token, a value out of range, or a
            model that ends every document at once.

    Example:
        >>> generate_documents(model, tokenizer, 2)  # doctest: +SKIP
    """
    decoder: Any = model  # its type does not tell that it generates
    start: Any = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not model.can_generate() or start is None:
        raise UsageError(f"{type(model).__name__} writes no text of its own: give a decoder with a start token.")
    if documents < 1 or max_tokens < 1 or temperature <= 0:
        raise UsageError(
            f"documents ({documents}) and max-tokens ({max_tokens}) must be at least 1, and the temperature"
            f" ({temperature:g}) above 0."
        )
    room = getattr(model.config, "max_position_embeddings", None)
    limit = min(max_tokens, room - 1) if isinstance(room, int) else max_tokens
    ends = sorted({end for end in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(end, int)})
    found: list[str] = []
    fruitless = 0
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        while len(found) < documents:
            begun = torch.full((BATCH, 1), start, device=model.device)
            rows: Any = decoder.generate(
                begun,
                attention_mask=torch.ones_like(begun),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=limit,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
            texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
            written = [text.strip() for text in texts if text.strip()]
            found += written
            fruitless = 0 if written else fruitless + 1
            if fruitless == FRUITLESS:
                raise UsageError(f"{type(model).__name__} ends every document before its first word.")
    return found[:documents]


def write_documents(documents: list[str], file: Path) -> None:
    """Write documents as the task ``text`` reads them: between lines ``<|endoftext|>``.

    Raises:
        UsageError: the file exists.
    """
    if file.exists():
        raise UsageError(f"{file} exists already; give a file that does not, nothing is overwritten.")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(file, f"\n{DOCUMENT_MARK}\n".join(documents).encode() + b"\n")
