"""From a trained network to sentences: beam search, and where the network looked meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_bcs.encoding import Encoded, Encoder
from cp_bcs.method.encoders import Memory
from cp_bcs.model import SummaryNetwork
from cp_bcs.tokens import END_NUMBER, PAD_NUMBER, START_NUMBER, UNKNOWN_NUMBER
from mpo_core.repro.training import Batch

_NEVER = (PAD_NUMBER, UNKNOWN_NUMBER, START_NUMBER)


@dataclass(frozen=True)
class Hypothesis:
    """A sentence that a network may write.

    Attributes:
        words: without its end.
        likelihood: mean of the logarithms of its words' chances, its end included.
    """

    words: tuple[str, ...]
    likelihood: float


@torch.no_grad()
def write(
    network: SummaryNetwork, encoder: Encoder, rows: Sequence[Encoded], beams: int = 4, batch_size: int = 32
) -> list[list[Hypothesis]]:
    """The likeliest sentences of each function, the likeliest first; at most `beams` of them, at least one.

    Args:
        network: a trained one; it stays in the mode that it is in, so call `eval` before.
        encoder: its vocabularies.
        rows: the functions.
        beams: sentences that are followed side by side; 1 takes the likeliest word each time.
        batch_size: functions at a time.
    """
    found: list[list[Hypothesis]] = []
    for start in range(0, len(rows), batch_size):
        block = rows[start : start + batch_size]
        device = next(network.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in encoder.batch(block).items()}
        kept = _search(network, batch, beams)
        for row, hypotheses in zip(block, kept, strict=True):
            known = (*encoder.words.known, *row.extra)
            found.append([Hypothesis(tuple(known[n] for n in numbers), score) for numbers, score in hypotheses])
    return found


def _search(network: SummaryNetwork, batch: Batch, beams: int) -> list[list[tuple[list[int], float]]]:
    """Beam search; the finished sentences of each row with their mean log-likelihoods, the best first."""
    rows = len(batch["given"])
    memories = [Memory(*(part.repeat_interleave(beams, dim=0) for part in memory)) for memory in network.read(batch)]
    wide = {"copied": batch["copied"].repeat_interleave(beams, dim=0)}
    given = torch.full((rows * beams, 1), START_NUMBER, device=batch["given"].device)
    # At the start all beams of a row are the same: only the first counts.
    scores = torch.full((rows, beams), -torch.inf, device=given.device)
    scores[:, 0] = 0.0
    finished: list[list[tuple[list[int], float]]] = [[] for _ in range(rows)]
    for length in range(1, network.config.summary_length + 1):
        chances = network.write(given, memories, wide).chances[:, -1]
        chances[:, list(_NEVER)] = -torch.inf
        if length == network.config.summary_length:  # no room for another word
            chances[:, :END_NUMBER], chances[:, END_NUMBER + 1 :] = -torch.inf, -torch.inf
        total = scores.unsqueeze(-1) + chances.view(rows, beams, -1)
        best, places = total.flatten(1).topk(min(2 * beams, total[0].numel()), dim=-1)
        given, scores = _go_on(given, best, places, chances.shape[-1], finished, length, beams)
        if all(len(done) >= beams for done in finished) or not torch.isfinite(scores).any():
            break
    return [sorted(done, key=lambda each: -each[1])[:beams] for done in finished]


def _go_on(
    given: Tensor,
    best: Tensor,
    places: Tensor,
    vocabulary: int,
    finished: list[list[tuple[list[int], float]]],
    length: int,
    beams: int,
) -> tuple[Tensor, Tensor]:
    """Sort the best continuations of each row into finished sentences and those that are followed."""
    rows = len(best)
    following = torch.zeros(rows * beams, given.shape[1] + 1, dtype=given.dtype, device=given.device)
    scores = torch.full((rows, beams), -torch.inf, device=given.device)
    for row in range(rows):
        free = 0
        for score, place in zip(best[row].tolist(), places[row].tolist(), strict=True):
            if free == beams or score == -torch.inf or len(finished[row]) >= beams:
                break
            source, word = row * beams + place // vocabulary, place % vocabulary
            if word == END_NUMBER:
                finished[row].append((given[source, 1:].tolist(), score / length))
                continue
            following[row * beams + free, :-1], following[row * beams + free, -1] = given[source], word
            scores[row, free] = score
            free += 1
    return following, scores


@torch.no_grad()
def looked_at(network: SummaryNetwork, encoder: Encoder, row: Encoded, words: Sequence[str]) -> dict[str, list[float]]:
    """How much a network looked at each place of each source while it wrote a sentence; sums to 1 for each source.

    Args:
        network: a trained one, in the mode `eval`.
        encoder: its vocabularies.
        row: the function.
        words: of the sentence.
    """
    behind = {word: len(encoder.words) + number for number, word in enumerate(row.extra)}
    numbers = [behind.get(word, encoder.words.number(word)) for word in words][: network.config.summary_length - 1]
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in encoder.batch([row]).items()}
    given = torch.tensor([[START_NUMBER, *numbers]], device=device)
    looked = network.write(given, network.read(batch), batch).looked
    return {
        source: weights[0].float().mean(0).tolist()
        for source, weights in zip(network.config.order, looked, strict=True)
    }
