"""From the comment above a function to one sentence that says what it does.

C projects document in many forms: plain text, Javadoc and GTK-doc blocks with parameters, ``name --- does this``
(gawk), ``NAME … SYNOPSIS … DESCRIPTION`` (glpk), rulers of dashes. What is left here is the first sentence, without
the function's own name, which a model must not learn to copy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHORTEST, LONGEST = 4, 40
"""Words of a sentence that is used."""

_OPENING = re.compile(r"/\*+[!<]?|\*+/")
_LINE_START = re.compile(r"^[ \t]*(?:\*+(?!/)|//+[!/<]?)[ \t]?", flags=re.MULTILINE)
_LINE_END = re.compile(r"[ \t]+\*+[ \t]*$", flags=re.MULTILINE)
_RULER = re.compile(r"^[ \t]*[-=*#_+~/]{3,}[ \t]*$", flags=re.MULTILINE)
_RULER_ENDS = re.compile(r"^[ \t]*[-=*#_~]{4,}[ \t]*|[ \t]*[-=*#_~]{4,}[ \t]*$", flags=re.MULTILINE)
_TAGS = (
    "param params return returns retval fn see sa note since deprecated internal private static ingroup pre post "
    "throws todo warning author code endcode li c a p name"
)
_HEADINGS = "Returns?|Arguments?|Parameters?|Inputs?|Outputs?|Return value|Side effects?|Notes?|Examples?"
_TAG_LINE = re.compile(
    rf"[ \t]*(?:[@\\](?:{'|'.join(_TAGS.split())})\b|@\w+\s*:|[a-z_]\w*:\s+(?:the|an?|if)\b|(?:{_HEADINGS})\s*:)",
    flags=re.IGNORECASE,
)
_RESULT_LINE = re.compile(r"[ \t]*Returns?\b")
_BRIEF = re.compile(r"[@\\]brief\b[ \t]*", flags=re.IGNORECASE)
_MANUAL = re.compile(r"\bNAME\b.*?\b(?:SYNOPSIS\b.*?)?\bDESCRIPTION\b", flags=re.DOTALL)
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bcf)(?<!\bvs)(?<!\bM[rs])(?<!\bMrs)(?<!\bDr)(?<!\bSt)"
    r"[.;!?](?=\s|$)|:(?=\s*$)"
)
_UNWANTED = re.compile(
    r"copyright|licen[sc]e|\bxxx\b|\bfixme\b|\btodo\b|\bhack\b|\bdeprecated\b|https?://|^\s*see\b|lint|gcc |\bstub\b",
    flags=re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]+")
_ORDINARY = re.compile(r"[a-z]+|[A-Z][a-z]+")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of a comment.

    Args:
        sentence: its first sentence, or None where it is of no use.
        reason: why not.
    """

    sentence: str | None
    reason: str | None = None


def clean_comment(comment: str, name: str) -> Cleaned:
    """The first sentence of a comment.

    Args:
        comment: as in the source, with its delimiters.
        name: of the function; it is taken out.
    """
    lines = comment.replace("\r\n", "\n").replace("\r", "\n")
    text = _first_paragraph(_without_delimiters(lines), name)
    end = _SENTENCE_END.search(text)
    sentence = " ".join((text[: end.start()] if end else text).split())
    sentence = _without_name(sentence, name)
    if not sentence:
        return Cleaned(None, "says nothing beside the function's name")
    if not sentence.isascii():
        return Cleaned(None, "is not ASCII")
    if _UNWANTED.search(sentence):
        return Cleaned(None, "is a note on licence, state or place")
    words = len(_WORD.findall(sentence))
    if words < SHORTEST:
        return Cleaned(None, f"has fewer than {SHORTEST} words")
    if len(sentence.split()) > LONGEST:
        return Cleaned(None, f"has more than {LONGEST} words")
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    if letters < 0.7 * len(sentence):
        return Cleaned(None, "is code, not prose")
    return Cleaned(sentence)


def _without_delimiters(comment: str) -> str:
    text = _LINE_END.sub("", _LINE_START.sub("", _OPENING.sub("\n", comment)))
    text = _RULER_ENDS.sub("", _RULER.sub("", text))
    manual = _MANUAL.search(text)
    return text[manual.end() :] if manual else text


def _first_paragraph(text: str, name: str) -> str:
    """Prose before the first blank line that has some; lines of parameters and the like end it."""
    text = _BRIEF.sub("", text)
    for paragraph in re.split(r"\n[ \t]*\n", text):
        kept: list[str] = []
        after_tag = False
        for line in paragraph.splitlines():
            if _is_tag(line, name) or (kept and _RESULT_LINE.match(line)):
                if _WORD.search(_without_name(" ".join(kept), name)):
                    break
                after_tag = True
            elif line.strip() and not (after_tag and line[0].isspace()):  # indented: what the tag says goes on
                kept.append(line.strip())
                after_tag = False
        prose = " ".join(kept)
        if _WORD.search(_without_name(prose, name)):
            return prose
    return ""


def _is_tag(line: str, name: str) -> bool:
    """Whether a line tells of a parameter or the like; ``name: the …`` of the function itself does not."""
    tag = _TAG_LINE.match(line)
    return tag is not None and not re.match(rf"[ \t]*{re.escape(name)}\s*:", line)


def _without_name(text: str, name: str) -> str:
    """A text without the function's name at its start; elsewhere ``this function`` stands for it.

    A name that may be an ordinary word (``sort``, ``copy``) is taken for the function only where it is written as one:
    with parentheses, before a dash or colon at the start, or behind the word function.
    """
    called = rf"\b{re.escape(name)}\s*\([^)]*\)"
    own = called if _ORDINARY.fullmatch(name) else rf"(?:{called}|\b{re.escape(name)}\b)"
    mentioned = rf"\b{re.escape(name)}\b(?:\s*\([^)]*\))?"
    if re.fullmatch(rf"\W*{mentioned}\W*", text):
        return ""
    announced = rf"(?:[Tt]he\s+)?(?:function|routine)\s+{mentioned}\s*"
    text = re.sub(rf"^\W*(?:{mentioned}\s*(?:-{{1,3}}|:)\s*|{announced}|\w+\s+-{{2,3}}\s+)", "", text)
    text = re.sub(rf"^\W*{own}\s*", "", text)
    return re.sub(own, "this function", text).strip(" \t\n-:,")
