"""What the network reads and writes: pieces of words of code, learnt from the training functions, and whole words.

The released code takes CodeT5's tokenizer for code; ours is learnt from the training split, as that one cannot be
shipped. Sentences are whole words, as in the released code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as Sequential
from tokenizers.trainers import BpeTrainer

from cp_bcs.binary.normalisation import SPECIAL, Normalized, sequence
from cp_bcs.data.pairs import OWN_NAME, Pair

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<s>", "</s>"
WORD_BEGINS = "▁"
PAD_NUMBER, UNKNOWN_NUMBER, START_NUMBER, END_NUMBER = range(4)

_DIGITS = re.compile(r"[\da-fA-F]{4,}")
_LEXEME = re.compile(r"<[A-Z]+>|[A-Za-z]+|\d+|[^\sA-Za-z\d]")
_BEFORE_NO_SPACE = re.compile(r"\s+([.,;:!?)\]}'])")
_AFTER_NO_SPACE = re.compile(r"([(\[{'])\s+")


def code_words(pair: Pair, texts: bool = True) -> list[list[str]]:
    """The words of each instruction, with those of the string or imported name that it uses.

    Args:
        pair: the function.
        texts: ``False`` hides strings and imported names.
    """
    told = pair.text_at()
    nodes = (Normalized(tuple(key.split(" ")), told.get(number)) for number, key in enumerate(pair.keys))
    return [sequence([node], texts) for node in nodes]


def pseudo_words(text: str) -> list[str]:
    """Pseudo code as a refiner writes it: parts of names, digits and marks, so that it can put names together."""
    return _LEXEME.findall(text)


def without_digits(text: str) -> str:
    """A text as the released code reads it: every run of four or more hexadecimal digits is gone, words' letters, too.

    Example:
        >>> without_digits("fadd feed 0x1234")
        '  0x'
    """
    return _DIGITS.sub("", text)


class Pieces:
    """Pieces of words of code: byte-pair encoding.

    Args:
        tokenizer: a trained one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    @classmethod
    def learn(cls, rows: Iterable[Sequence[str]], size: int) -> Pieces:
        """Learn the pieces of rows of words.

        Args:
            rows: words.
            size: how many pieces, at most.
        """
        tokenizer: Any = Tokenizer(BPE(unk_token=UNKNOWN))
        # A mark begins each word. With a prefix for what continues one, the trainer numbers pieces in the order of a
        # hash table: other numbers each time, and a training that is resumed would read another vocabulary.
        tokenizer.pre_tokenizer = Sequential([WhitespaceSplit(), Metaspace(replacement=WORD_BEGINS)])
        special = [PAD, UNKNOWN, *SPECIAL, OWN_NAME]
        options: dict[str, Any] = {"show_progress": False}
        trainer = BpeTrainer(vocab_size=size, special_tokens=special, **options)
        tokenizer.train_from_iterator((" ".join(row) for row in rows), trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        """How many there are."""
        return self.tokenizer.get_vocab_size()

    def numbers(self, rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """The pieces of each row of words."""
        texts = [" ".join(row) for row in rows]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for text, found in zip(new, self.tokenizer.encode_batch(new), strict=True):
            self._known[text] = found.ids
        return [self._known[text] for text in texts]


@dataclass(frozen=True)
class Words:
    """Numbered words, or numbered instructions.

    Attributes:
        known: by number; the first ones are `PAD`, `UNKNOWN`, `START` and `END`.
    """

    known: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[Iterable[str]], least: int = 1) -> Words:
        """All words that rows hold at least so many times, in the order of their first use."""
        counts: dict[str, int] = {}
        for row in rows:
            for word in row:
                counts[word] = counts.get(word, 0) + 1
        special = (PAD, UNKNOWN, START, END)
        kept = (word for word, count in counts.items() if count >= least and word not in special)
        return cls((*special, *kept))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.known)}

    def __len__(self) -> int:
        """How many there are."""
        return len(self.known)

    def number(self, word: str) -> int:
        """Of a word; `UNKNOWN_NUMBER` for one that is not known."""
        return self._numbers.get(word, UNKNOWN_NUMBER)


def sentence_of(written: Sequence[str]) -> str:
    """Words as a sentence that people read.

    Example:
        >>> sentence_of(["free", "a", "list", "(", "and", "its", "nodes", ")", "."])
        'free a list (and its nodes).'
    """
    text = _BEFORE_NO_SPACE.sub(r"\1", " ".join(written))
    return _AFTER_NO_SPACE.sub(r"\1", text)
