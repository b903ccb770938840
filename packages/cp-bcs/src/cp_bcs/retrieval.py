"""The nearest known functions: an index of normalised code, searched by cosine of TF-IDF weights.

A function is described by its instructions, by pairs of neighbouring ones, by the strings and imported names that it
uses, and by the code of the functions that it calls. Under a random split by function, the comment of the nearest
neighbour is as good as what the paper reports for its network; on an unseen project it is worth no more than a random
comment. So every result here stands beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from cp_bcs.data.pairs import Pair, read_pairs, write_pairs
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.atomic import write_bytes_atomic

_BLOCK = 512


@dataclass(frozen=True)
class Neighbour:
    """A known function near the one that was asked for.

    Args:
        pair: the known function.
        similarity: cosine, 0 … 1; 1 for equal features.
    """

    pair: Pair
    similarity: float


def features(pair: Pair, texts: bool = True) -> list[str]:
    """What describes a function: instructions, pairs of neighbouring ones, strings, imported names, and callees."""
    keys = pair.keys
    found = [*keys, *(f"{a} ; {b}" for a, b in pairwise(keys))]
    if texts:
        found += [f"text {text}" for _, text in pair.texts]
        found += [f"calls {digest}" for _, digest in pair.calls]
    return found


class Index:
    """Known functions, ready to be searched.

    Args:
        pairs: the functions with their sentences.
        texts: whether strings, imported names and callees count.
    """

    def __init__(self, pairs: Sequence[Pair], texts: bool = True) -> None:
        if not pairs:
            raise UsageError("an index needs at least one function.")
        self.pairs = tuple(pairs)
        self.texts = texts
        self._vectorizer = _vectorizer()
        self._matrix: csr_matrix = self._vectorizer.fit_transform(self._described(pairs))

    @cached_property
    def _documented(self) -> np.ndarray:
        return np.array([bool(pair.sentence) for pair in self.pairs])

    @property
    def all_documented(self) -> bool:
        """Whether every known function has a sentence."""
        return bool(self._documented.all())

    def search(
        self,
        asked: Sequence[Pair],
        k: int = 5,
        apart: Callable[[Pair], Hashable] | None = None,
        documented: bool = False,
    ) -> list[list[Neighbour]]:
        """The k nearest known functions of each, the nearest first.

        Args:
            asked: functions; their sentences are not looked at.
            k: how many; fewer where not so many are left.
            apart: known functions of which it gives the same as of the one that is asked for are passed over, so that
                training functions find neighbours as near as those of a held-out function.
            documented: only those that have a sentence.
        """
        groups = (
            None
            if apart is None
            else np.unique([repr(apart(p)) for p in (*self.pairs, *asked)], return_inverse=True)[1]
        )
        found: list[list[Neighbour]] = []
        for start in range(0, len(asked), _BLOCK):
            block = self._vectorizer.transform(self._described(asked[start : start + _BLOCK]))
            similarities = np.asarray((block @ self._matrix.T).todense())
            for number, row in enumerate(similarities, start=start):
                # Ties go to the earlier function, whatever the sort.
                order = np.lexsort((np.arange(len(row)), -row))
                if documented:
                    order = order[self._documented[order]]
                if groups is not None:
                    order = order[groups[order] != groups[len(self.pairs) + number]]
                order = order[:k]
                found.append([Neighbour(self.pairs[place], float(row[place])) for place in order])
        return found

    def shared(self, asked: Pair, known: Pair) -> list[float]:
        """How much each node of a function adds to its similarity with a known one, the greatest share as 1.

        A feature that occurs several times adds an equal part at each of its places; a pair of instructions adds half
        at each of the two.
        """
        both = self._vectorizer.transform(self._described([asked, known]))
        products = both[0].multiply(both[1]).tocoo()
        counts = Counter(features(asked, self.texts))
        names = self._feature_names
        gains = {names[n]: value / counts[names[n]] for n, value in zip(products.col, products.data, strict=True)}
        weights = [gains.get(key, 0.0) for key in asked.keys]
        for node, (a, b) in enumerate(pairwise(asked.keys)):
            half = gains.get(f"{a} ; {b}", 0.0) / 2
            weights[node] += half
            weights[node + 1] += half
        for node, text in asked.texts if self.texts else ():
            weights[node] += gains.get(f"text {text}", 0.0)
        for node, digest in asked.calls if self.texts else ():
            weights[node] += gains.get(f"calls {digest}", 0.0)
        most = max(weights, default=0.0)
        return [float(weight / most) if most else 0.0 for weight in weights]

    @cached_property
    def _feature_names(self) -> list[str]:
        names = [""] * len(self._vectorizer.vocabulary_)
        for feature, number in self._vectorizer.vocabulary_.items():
            names[number] = feature
        return names

    def save(self, folder: Path) -> None:
        """Write the index: ``pairs.jsonl``, ``vocabulary.json`` and ``weights.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        described = {"schema_version": 1, "texts": self.texts, "features": self._feature_names}
        write_bytes_atomic(folder / "pairs.jsonl", write_pairs(self.pairs))
        write_bytes_atomic(folder / "vocabulary.json", json.dumps(described, ensure_ascii=False).encode())
        save_file({"idf": np.asarray(self._vectorizer.idf_)}, folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read a saved index.

        Raises:
            InputFileError: the folder holds none, or a damaged one.
        """
        pairs = read_pairs(folder / "pairs.jsonl")
        try:
            described = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "weights.safetensors")["idf"]
            names, texts = list(described["features"]), bool(described["texts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputFileError(f"{folder} holds no index ({error or type(error).__name__}).") from error
        if len(names) != len(weights) or not pairs:
            raise InputFileError(f"{folder} holds a damaged index: its vocabulary and weights do not fit.")
        index = cls.__new__(cls)
        index.pairs, index.texts = tuple(pairs), texts
        index._vectorizer = _vectorizer()
        index._vectorizer.vocabulary_ = {name: number for number, name in enumerate(names)}
        index._vectorizer.idf_ = weights
        index._matrix = index._vectorizer.transform(index._described(pairs))
        return index

    def _described(self, pairs: Iterable[Pair]) -> list[list[str]]:
        return [features(pair, self.texts) for pair in pairs]


def _vectorizer() -> Any:
    given: Any = _as_given  # scikit-learn's stubs know of names of analyzers only
    return TfidfVectorizer(analyzer=given, sublinear_tf=True, dtype=np.float64)


def _as_given(described: list[str]) -> list[str]:
    return described
