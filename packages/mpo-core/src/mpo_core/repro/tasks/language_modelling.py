"""Running text for language modelling: WikiText-2, Penn Treebank, Tiny Shakespeare, or a user's own text.

An example is a document: a Wikipedia article, 50 sentences in a row, about 2,000 characters of a play, a
user's file or part of it. Encoding cuts each into windows. Where there is no official development set,
``select`` is the end of the training text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.tasks.task import (
    Example,
    Item,
    Split,
    TextTask,
    first_existing,
    hub_dataset,
    read_utf8,
    subsample,
)

if TYPE_CHECKING:
    from mpo_core.repro.config import TaskConfig

METRICS = ("perplexity", "loss")
SENTENCES_PER_DOCUMENT = 50
DOCUMENT_CHARACTERS = 2000
DOCUMENT_MARK = "<|endoftext|>"
PARQUET_BRANCH = "refs/convert/parquet"


@dataclass(frozen=True)
class Texts:
    """Documents per split; ``select`` may be ``None``: then it is the end of ``train``."""

    train: list[str]
    select: list[str] | None
    held_out: list[str]
    source: str


def load_corpus(config: TaskConfig, data_dir: Path | None) -> TextTask:
    """Load a corpus of `CORPORA`, from files where the folder has them, otherwise from the hub.

    Raises:
        InputFileError: a bad file, or the corpus is nowhere to be had.
        UsageError: ``text`` without a path.
    """
    texts = CORPORA[config.name](config, data_dir)
    return language_task(config, texts)


def language_task(config: TaskConfig, texts: Texts) -> TextTask:
    """Make the task of documents: a development part where there is none, subsamples by size."""
    train, select = texts.train, texts.select
    if select is None:
        train, select = split_tail(train, config.select_size or min(max(len(train) // 10, 1), 500))
    chosen: dict[Split, list[str]] = {
        "train": subsample(train, config.train_size),
        "select": subsample(select, config.select_size),
        "eval": subsample(texts.held_out, config.eval_size),
    }
    splits: dict[Split, list[Example]] = {
        name: [Example((text,)) for text in documents] for name, documents in chosen.items()
    }
    return TextTask(config.name, "language-modelling", 0, (), splits, METRICS, texts.source)


def split_tail(items: Sequence[Item], size: int) -> tuple[list[Item], list[Item]]:
    """Cut off the last ``size`` items.

    Raises:
        UsageError: nothing would be left.
    """
    if size >= len(items):
        raise UsageError(f"cannot take {size} of {len(items)} documents away from training: take fewer, or more text.")
    return list(items[:-size]), list(items[-size:])


def wikitext_articles(lines: Iterable[str]) -> list[str]:
    """Join the lines of WikiText to articles.

    A title stands between blank lines and looks like ``= Title =``. Blank lines and outer blanks are dropped,
    the words kept as they are.
    """
    stripped = [line.strip() for line in lines]
    articles: list[list[str]] = []
    for place, line in enumerate(stripped):
        alone = not (place and stripped[place - 1]) and not (place + 1 < len(stripped) and stripped[place + 1])
        if not articles or (alone and re.fullmatch(r"= [^=].* =", line)):
            articles.append([])
        if line:
            articles[-1].append(line)
    return ["\n".join(article) for article in articles if article]


def sentence_blocks(lines: Iterable[str], size: int = SENTENCES_PER_DOCUMENT) -> list[str]:
    """Join sentences, one a line, to documents of ``size`` sentences; outer blanks are dropped."""
    sentences = [line.strip() for line in lines if line.strip()]
    return ["\n".join(sentences[start : start + size]) for start in range(0, len(sentences), size)]


def character_blocks(text: str, size: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Cut a text at blank lines (else at line ends) into documents of about ``size`` characters.

    Joined again, the documents are the text.
    """
    blocks, start = [], 0
    while start < len(text):
        end = _cut(text, start, size)
        blocks.append(text[start:end])
        start = end
    return blocks


def _cut(text: str, start: int, size: int) -> int:
    """Where the block that begins at ``start`` ends: after a blank line, else a line, else ``size``."""
    limit = start + size
    if limit >= len(text):
        return len(text)
    for mark in ("\n\n", "\n"):
        place = text.rfind(mark, start + size // 2, limit)
        if place >= 0:
            return place + len(mark)
    return limit


def _wikitext(config: TaskConfig, data_dir: Path | None) -> Texts:
    folder = None if data_dir is None else data_dir / "wikitext-2"
    files = (
        {} if folder is None else {name: first_existing(folder, [f"{name}.txt"]) for name in ("train", "valid", "test")}
    )
    valid, test, train = files.get("valid"), files.get("test"), files.get("train")
    if valid is None or test is None:
        splits = hub_dataset("Salesforce/wikitext", "wikitext-2-v1", data_dir)
        articles = {name: wikitext_articles(splits[name]["text"]) for name in ("train", "validation", "test")}
        source = "Hugging Face hub, Salesforce/wikitext (wikitext-2-v1): train, select validation, eval test"
        return Texts(articles["train"], articles["validation"], articles["test"], source)
    valid_articles, test_articles = (wikitext_articles(read_utf8(file).split("\n")) for file in (valid, test))
    if train is not None:
        train_articles = wikitext_articles(read_utf8(train).split("\n"))
        return Texts(train_articles, valid_articles, test_articles, "WikiText-2 files: train, select valid, eval test")
    source = (
        "WikiText-2 files without the training file: train and select on valid.txt, eval test.txt; "
        "figures do not compare with published ones"
    )
    return Texts(valid_articles, None, test_articles, source)


def _ptb(config: TaskConfig, data_dir: Path | None) -> Texts:
    names = ("train", "valid", "test")
    folder = None if data_dir is None else data_dir / "ptb"
    files = [] if folder is None else [first_existing(folder, [f"ptb.{name}.txt"]) for name in names]
    found = [file for file in files if file is not None]
    if len(found) == len(names):
        train, valid, test = (sentence_blocks(read_utf8(file).split("\n")) for file in found)
        return Texts(train, valid, test, "Penn Treebank files (Mikolov): train, select valid, eval test")
    splits = hub_dataset("ptb-text-only/ptb_text_only", None, data_dir, revision=PARQUET_BRANCH)
    train, valid, test = (sentence_blocks(splits[name]["sentence"]) for name in ("train", "validation", "test"))
    return Texts(
        train,
        valid,
        test,
        "Hugging Face hub, ptb-text-only/ptb_text_only: train, select validation, eval test",
    )


def _tiny_shakespeare(config: TaskConfig, data_dir: Path | None) -> Texts:
    file = None if data_dir is None else first_existing(data_dir / "tiny-shakespeare", ["input.txt"])
    if file is not None:
        text, origin = read_utf8(file), "Tiny Shakespeare file"
    else:
        splits = hub_dataset("karpathy/tiny_shakespeare", None, data_dir, revision=PARQUET_BRANCH)
        text = "".join("".join(splits[name]["text"]) for name in ("train", "validation", "test"))
        origin = "Hugging Face hub, karpathy/tiny_shakespeare"
    border = int(0.9 * len(text))
    source = f"{origin}: eval the last tenth of the characters, select the end of the rest"
    return Texts(character_blocks(text[:border]), None, character_blocks(text[border:]), source)


def _own_text(config: TaskConfig, data_dir: Path | None) -> Texts:
    if config.path is None:
        raise UsageError("the task 'text' needs a path: a text file, or a folder of .txt files.")
    documents = read_documents(Path(config.path).expanduser())
    if len(documents) < 3:
        raise InputFileError(f"{config.path} holds too little text: {len(documents)} documents, expected at least 3.")
    name = Path(config.path).name
    if config.eval_path is not None:
        held_out = read_documents(Path(config.eval_path).expanduser())
        return Texts(documents, None, held_out, f"own text {name}: eval {Path(config.eval_path).name}")
    train, held_out = split_tail(documents, max(len(documents) // 10, 1))
    return Texts(train, None, held_out, f"own text {name}: eval the last tenth of the documents")


def read_documents(path: Path) -> list[str]:
    """Read a text file, or the ``.txt`` files of a folder in the order of their names.

    A file with lines ``<|endoftext|>`` is split there; otherwise it is cut at blank lines into documents of
    about 2,000 characters.

    Raises:
        InputFileError: no such path, no text, or not UTF-8.
    """
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not path.exists():
        raise InputFileError(f"{path} is not there: expected a text file or a folder of .txt files.")
    documents: list[str] = []
    for file in files:
        text = read_utf8(file)
        parts = text.split(DOCUMENT_MARK) if DOCUMENT_MARK in text else character_blocks(text)
        documents += [part.strip() for part in parts if part.strip()]
    if not documents:
        raise InputFileError(f"{path} holds no text: expected a text file or a folder of .txt files.")
    return documents


CORPORA: dict[str, Callable[[TaskConfig, Path | None], Texts]] = {
    "wikitext-2": _wikitext,
    "ptb": _ptb,
    "tiny-shakespeare": _tiny_shakespeare,
    "text": _own_text,
}
