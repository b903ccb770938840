"""Functions of a binary for a phrase: by their strings, the names they import, and what is said of their neighbours.

Every piece of evidence is compared with the phrase by TF-IDF of words and of character n-grams, which forgive endings
and abbreviations; what is known of a neighbour counts as much as the neighbour is near.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from cp_bcs.retrieval import Index
from cp_bcs.summaries.consensus import SHOWN
from cp_bcs.summaries.survey import Surveyed
from mpo_core.errors import UsageError

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_STOP_WORDS = frozenset(
    {
        *("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "if", "in", "is", "it", "its", "not"),
        *("of", "on", "or", "that", "the", "this", "to", "with"),
    }
)
_LEAST = 0.02
_LONGEST = 2000
"""Characters of a text that are compared."""


@dataclass(frozen=True)
class Evidence:
    """Why a function was found.

    Args:
        kind: ``name`` (own, exported), ``string``, ``import``, ``sentence`` or ``known name``.
        text: what it says.
        strength: how far it speaks of this function: 1 for its own, the similarity for a neighbour's.
        score: strength times similarity to the phrase, 0 … 1.
        origin: of a neighbour: project, file and name.
    """

    kind: str
    text: str
    strength: float
    score: float = 0.0
    origin: str | None = None


@dataclass(frozen=True)
class Hit:
    """A function that fits the phrase.

    Args:
        address: of it.
        score: of all its evidence together, 0 … 1.
        evidence: the best first.
    """

    address: int
    score: float
    evidence: tuple[Evidence, ...]


def find_phrase(surveyed: Mapping[int, Surveyed], index: Index | None, phrase: str, top: int = 10) -> list[Hit]:
    """The functions of a binary that fit a phrase, the best first.

    Args:
        surveyed: the functions, by address.
        index: known functions; without one, strings and names of the binary alone are searched.
        phrase: what is looked for, in words.
        top: so many at most.

    Raises:
        UsageError: the phrase has no word.
    """
    if not _split(phrase):
        raise UsageError(f"the phrase {phrase!r} has no word to look for; say what the function does.")
    gathered = {address: _own(each.told) for address, each in surveyed.items()}
    asked = {address: each.asked for address, each in surveyed.items() if each.asked is not None}
    if index is not None and asked:
        for address, near in zip(asked, index.search(list(asked.values()), SHOWN), strict=True):
            for neighbour in near:
                pair, near_by = neighbour.pair, neighbour.similarity
                origin = f"{pair.project}, {pair.file}, {pair.name}"
                gathered[address].append(Evidence("known name", pair.name, near_by, origin=origin))
                if pair.sentence:
                    gathered[address].append(Evidence("sentence", pair.sentence, near_by, origin=origin))
    texts = list(dict.fromkeys(each.text for pieces in gathered.values() for each in pieces))
    likeness = dict(zip(texts, _likeness(texts, phrase), strict=True)) if texts else {}
    hits = [_hit(address, pieces, likeness) for address, pieces in gathered.items()]
    return sorted((hit for hit in hits if hit.score >= _LEAST), key=lambda hit: (-hit.score, hit.address))[:top]


def _own(told: Mapping[str, Any]) -> list[Evidence]:
    found = [Evidence("name", told["name"], 1.0)] if told["name"] else []
    found += [Evidence("string", text, 1.0) for text in told.get("strings", ())]
    return found + [Evidence("import", name, 1.0) for name in told.get("imports", ())]


def _hit(address: int, pieces: Sequence[Evidence], likeness: Mapping[str, float]) -> Hit:
    """Evidence adds up as independent chances do; the same text counts once, where it is strongest."""
    best: dict[str, Evidence] = {}
    for each in pieces:
        scored = Evidence(each.kind, each.text, each.strength, each.strength * likeness[each.text], each.origin)
        if scored.score > 0 and (each.text not in best or scored.score > best[each.text].score):
            best[each.text] = scored
    evidence = sorted(best.values(), key=lambda each: (-each.score, each.text))
    return Hit(address, 1 - float(np.prod([1 - each.score for each in evidence])), tuple(evidence))


def _likeness(texts: Sequence[str], phrase: str) -> np.ndarray:
    """Mean of two cosines of each text with a phrase: over words, and over character n-grams inside of words."""
    prepared = [" ".join(_split(text[:_LONGEST])) for text in (*texts, phrase)]
    by_word: Any = str.split  # scikit-learn's stubs know of names of analyzers only
    word: Any = TfidfVectorizer(analyzer=by_word, sublinear_tf=True)
    character: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    cosines = []
    for vectorizer in (word, character):
        rows = vectorizer.fit_transform(prepared)
        cosines.append(np.asarray((rows[:-1] @ rows[-1].T).todense()).ravel())
    return np.clip(np.mean(cosines, axis=0), 0.0, 1.0)


def _split(text: str) -> list[str]:
    """Words, those inside of names parted: ``xmlParseHeader`` and ``parse_header`` both say parse and header."""
    return [word for word in (part.lower() for part in _WORD.findall(text)) if word not in _STOP_WORDS]
