"""From a trained network to sentences: beam search, and where the network looked meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_bcs.encoding import Encoded, Encoder
from cp_bcs.model import SummaryNetwork
from cp_bcs.tokens import END_NUMBER, PAD_NUMBER, START_NUMBER, UNKNOWN_NUMBER
from mpo_core.repro.devices import device_of, to_device
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
        batch = to_device(encoder.batch(block), device_of(network))
        kept = _search(network, batch, beams)
        for row, hypotheses in zip(block, kept, strict=True):
            known = (*encoder.words.known, *row.extra)
            found.append([Hypothesis(tuple(known[n] for n in numbers), score) for numbers, score in hypotheses])
    return found


def _search(network: SummaryNetwork, batch: Batch, beams: int) -> list[list[tuple[list[int], float]]]:
    """Beam search; the finished sentences of each row with their mean log-likelihoods, the best first."""
    rows, device = len(batch["given"]), batch["given"].device
    prefix = network.decoder.begin(network.read(batch))
    given = torch.full((rows * beams, 1), START_NUMBER, device=device)
    # At the start all beams of a row are the same: only the first counts.
    scores = torch.full((rows, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0
    finished: list[list[tuple[list[int], float]]] = [[] for _ in range(rows)]
    for length in range(1, network.config.summary_length + 1):
        chances = network.write_on(given[:, -1].view(rows, beams), prefix, batch).chances
        chances[..., list(_NEVER)] = -torch.inf
        if length == network.config.summary_length:  # no room for another word
            chances[..., :END_NUMBER], chances[..., END_NUMBER + 1 :] = -torch.inf, -torch.inf
        total = scores.unsqueeze(-1) + chances
        best, places = total.flatten(1).topk(min(2 * beams, total[0].numel()), dim=-1)
        sources, words, scores = _go_on(given, best, places, chances.shape[-1], finished, length, beams)
        if all(len(done) >= beams for done in finished) or not torch.isfinite(scores).any():
            break
        given = torch.cat([given[sources], words.unsqueeze(1)], dim=1)
        prefix.follow(sources)
    return [sorted(done, key=lambda each: -each[1])[:beams] for done in finished]


def _go_on(
    given: Tensor,
    best: Tensor,
    places: Tensor,
    vocabulary: int,
    finished: list[list[tuple[list[int], float]]],
    length: int,
    beams: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the best continuations of each row into finished sentences and those that are followed.

    Returns:
        Of each beam the one that it continues, and its next word, (rows * beams,); their scores, (rows, beams).
    """
    sources: list[int] = []
    words: list[int] = []
    scores: list[list[float]] = []
    for row, (its_best, its_places) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
        followed: list[tuple[int, int, float]] = []
        for score, place in zip(its_best, its_places, strict=True):
            if len(followed) == beams or score == -torch.inf or len(finished[row]) >= beams:
                break
            source, word = row * beams + place // vocabulary, place % vocabulary
            if word == END_NUMBER:
                finished[row].append((given[source, 1:].tolist(), score / length))
            else:
                followed.append((source, word, score))
        followed += [(row * beams, PAD_NUMBER, -torch.inf)] * (beams - len(followed))
        sources += [source for source, _, _ in followed]
        words += [word for _, word, _ in followed]
        scores.append([score for _, _, score in followed])
    device = given.device
    return torch.tensor(sources, device=device), torch.tensor(words, device=device), torch.tensor(scores, device=device)


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
    device = device_of(network)
    batch = to_device(encoder.batch([row]), device)
    given = torch.tensor([[START_NUMBER, *numbers]], device=device)
    looked = network.write(given, network.read(batch), batch).looked
    return {
        source: weights[0].float().mean(0).tolist()
        for source, weights in zip(network.config.order, looked, strict=True)
    }
