"""Embedded text tasks of documentation that the Python installation holds: nothing is downloaded.

Three origins: ``reference`` (the help topics of the language reference, ``pydoc_data``), ``stdlib``
(docstrings of the standard library) and ``torch`` (docstrings of PyTorch). Source files are parsed, never
imported.

- ``doctext``: the origin of a single sentence. Markup is stripped, names are not, so words like *tensor* make
  many sentences easy; what is left is telling the reference from the library (tf-idf and logistic
  regression: 0.75 right).
- ``doctext-pairs``: whether two sentences stand one after the other in the same docstring or topic, or come
  from two different files of the same origin. Counting words does not tell (tf-idf and logistic regression:
  0.56).
- ``doctext-lm``: all docstrings of a file (or one topic) as a document for language modelling.

A file or topic is in one split only. The text changes with the versions of Python and PyTorch, which
``source`` records.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import platform
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mpo_core.errors import MissingPartError
from mpo_core.repro.tasks.language_modelling import Texts, language_task
from mpo_core.repro.tasks.task import SPLIT_SEED, Example, Split, TextTask, subsample

if TYPE_CHECKING:
    from mpo_core.repro.config import TaskConfig

DOCTEXT_TASKS = ("doctext", "doctext-pairs", "doctext-lm")
ORIGINS = ("reference", "stdlib", "torch")
PAIR_LABELS = ("unrelated", "consecutive")
SHARES: dict[Split, float] = {"eval": 0.2, "select": 0.1}
MIN_WORDS, MAX_WORDS = 7, 50
_TORCH_FOLDERS = ("autograd", "distributions", "nn/modules", "nn/utils", "optim", "utils/data")
# Code, grammar, tables, headings underlined, signatures.
_NOT_PROSE = re.compile(r">>>|::=|^\.\.|[-=~*]{3}|^\s*(?:def|class|import|from|if|for) .*:?$| = |[{}|]", re.MULTILINE)


@dataclass(frozen=True)
class Document:
    """The documentation of one file, or one topic: its texts (docstrings) in order."""

    origin: str
    name: str
    texts: tuple[str, ...]


def load_doctext(config: TaskConfig) -> TextTask:
    """Make one of `DOCTEXT_TASKS` of the documentation in this installation.

    Raises:
        MissingPartError: the installation has no source files or no help topics.
    """
    splits = split_documents(collect_documents())
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    source = f"documentation of the installation ({versions}), split by file"
    if config.name == "doctext-lm":
        texts = {name: ["\n\n".join(document.texts) for document in part] for name, part in splits.items()}
        return language_task(config, Texts(texts["train"], texts["select"], texts["eval"], source))
    pairs = config.name == "doctext-pairs"
    make = pair_examples if pairs else origin_examples
    seen: set[str] = set()  # shared, so that no sentence is in two splits: what eval has, training lacks
    examples = {name: make(splits[name], seen) for name in ("eval", "select", "train")}
    names = PAIR_LABELS if pairs else ORIGINS
    return TextTask(
        name=config.name,
        kind="classification",
        num_labels=len(names),
        label_names=names,
        splits={
            "train": subsample(examples["train"], config.train_size),
            "select": subsample(examples["select"], config.select_size),
            "eval": subsample(examples["eval"], config.eval_size),
        },
        metrics=("accuracy",),
        source=source,
    )


@cache
def collect_documents() -> tuple[Document, ...]:
    """All documents, sorted by origin and name; read once per process (about two seconds).

    Raises:
        MissingPartError: the installation has no source files or no help topics.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    documents = [
        *_topics(),
        *_docstring_documents("stdlib", stdlib, ("",)),
        *_docstring_documents("torch", _torch_folder(), _TORCH_FOLDERS),
    ]
    for origin in ORIGINS:
        if not any(document.origin == origin for document in documents):
            raise MissingPartError(
                f"this Python installation holds no documentation text of {origin!r} (source "
                "files or help topics are stripped): install the full Python, or use another task."
            )
    return tuple(sorted(documents, key=lambda document: (document.origin, document.name)))


def split_documents(documents: tuple[Document, ...]) -> dict[Split, list[Document]]:
    """Deal the documents to the splits, each origin by itself: ``eval`` gets a fifth of its characters."""
    splits: dict[Split, list[Document]] = {"train": [], "select": [], "eval": []}
    for origin in ORIGINS:
        own = [document for document in documents if document.origin == origin]
        random.Random(SPLIT_SEED).shuffle(own)
        left: dict[Split, float] = {name: share * sum(map(_size, own)) for name, share in SHARES.items()}
        for document in own:
            fitting: list[Split] = [name for name in left if left[name] >= _size(document)]
            target = fitting[0] if fitting else "train"
            splits[target].append(document)
            if target in left:
                left[target] -= _size(document)
    return {name: sorted(part, key=lambda d: (d.origin, d.name)) for name, part in splits.items()}


def sentences(text: str) -> list[str]:
    """The sentences of a docstring's running text, with markup stripped, of 7 to 50 words."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"^(?:[*-]|\d+\.|\[\d+\])\s+", "", block.strip())
        if not block or _NOT_PROSE.search(block):
            continue
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", _strip_markup(block)):
            if sentence.endswith(".") and MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
                found.append(sentence)
    return found


def origin_examples(documents: list[Document], seen: set[str]) -> list[Example]:
    """Sentences labelled by origin, as many of every origin; leaves out those in ``seen``, adds to it."""
    by_origin: dict[str, list[Example]] = {origin: [] for origin in ORIGINS}
    for document in documents:
        for text in document.texts:
            for sentence in sentences(text):
                if sentence not in seen:
                    seen.add(sentence)
                    label = ORIGINS.index(document.origin)
                    by_origin[document.origin].append(Example((sentence,), label))
    count = min(map(len, by_origin.values()))
    balanced = [example for examples in by_origin.values() for example in subsample(examples, count)]
    return sorted(balanced, key=lambda example: example.texts)


def pair_examples(documents: list[Document], seen: set[str]) -> list[Example]:
    """Pairs of sentences: consecutive ones, and as many from two files of one origin; ``seen`` as above."""
    followers: list[tuple[str, str, str, str]] = []  # origin, file, sentence, next one
    for document in documents:
        for text in document.texts:
            found = sentences(text)
            for first, second in pairwise(found):
                if first not in seen and second not in seen:
                    seen |= {first, second}
                    followers.append((document.origin, document.name, first, second))
    generator = random.Random(SPLIT_SEED)
    generator.shuffle(followers)
    examples = []
    for place, (origin, name, first, second) in enumerate(followers):
        others = [row[3] for row in followers if row[0] == origin and row[1] != name] if place % 2 else []
        text = generator.choice(others) if others else second
        examples.append(Example((first, text), 0 if others else 1))
    return sorted(examples, key=lambda example: example.texts)


def _topics() -> list[Document]:
    try:
        from pydoc_data.topics import topics  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPartError("this Python has no pydoc_data (help topics): install the full Python.") from error
    return [Document("reference", name, (text,)) for name, text in sorted(topics.items())]


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise MissingPartError("torch is not installed as files: pip install torch.")
    return Path(spec.origin).parent


def _docstring_documents(origin: str, root: Path, folders: tuple[str, ...]) -> list[Document]:
    """One document per source file directly in these folders that has docstrings."""
    documents = []
    for file in sorted(file for folder in folders for file in (root / folder).glob("*.py")):
        texts = tuple(_docstrings(file))
        if texts:
            documents.append(Document(origin, file.relative_to(root).as_posix(), texts))
    return documents


def _docstrings(file: Path) -> Iterator[str]:
    """The docstrings of a source file, in order; nothing of one that does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in other people's sources
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text and text.strip():
                yield inspect.cleandoc(text)


def _strip_markup(text: str) -> str:
    """Without reStructuredText roles, quotes, stars and backticks: they would give the origin away."""
    text = re.sub(r":[a-z:]+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"[`*\"“”‘’_\\|]+", " ", text)
    return " ".join(re.sub(r"\s+([.,;:)])", r"\1", text).split())


def _size(document: Document) -> int:
    return sum(map(len, document.texts))
