"""Pseudo code as models read it: without addresses, comments and the function's own names.

Pseudo code is not quite C (``vvar_35{r64|4b}``, ``CONCAT``, computed ``goto``): it is cut into lexemes, never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cp_bcs.data.pairs import OWN_NAME, hide_names

_STRING = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])*'"
_COMMENT = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
_LEXEME = re.compile(
    rf"{re.escape(OWN_NAME)}|{_STRING}|[A-Za-z_]\w*|0[xX][\da-fA-F]+\w*|\d+(?:\.\d+)?\w*"
    r"|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|&&|\|\||[-+*/%&|^<>=!]=|::|\S"
)
_TEXT_OR_COMMENT = re.compile(rf"({_STRING})|{_COMMENT}", re.DOTALL)
_ADDRESS_NAME = re.compile(r"\b(sub|loc|g|LABEL|label|off|dword|qword|unk|str)_[\da-fA-F]{3,}\b")
_DECLARATION = re.compile(
    r"^(?:typedef [^{;\n]*\{.*?^\}[^\n]*;|(?:typedef|extern) [^{\n]*;)[ \t]*$", re.DOTALL | re.MULTILINE
)
_VARIABLE = re.compile(rf"({_STRING})|\bv(?:var_)?\d+\b")
_BLANK_LINES = re.compile(r"[ \t]*\n(?:[ \t]*\n)*")


def pseudo_tokens(text: str) -> list[str]:
    """The lexemes of pseudo code, whatever it looks like; strings stay whole, blanks go.

    Example:
        >>> pseudo_tokens('if (a0->field_8 >= 16) puts("no, no");')
        ['if', '(', 'a0', '->', 'field_8', '>=', '16', ')', 'puts', '(', '"no, no"', ')', ';']
    """
    return _LEXEME.findall(text)


def clean_pseudo(text: str, names: Sequence[str]) -> str:
    r"""Pseudo code that does not tell what its function is called nor where it lies.

    The structures that a decompiler infers are left out, too: they stand before the function, often at length, and what
    matters of them are the fields that the function uses. Variables without a name are numbered as they come, since
    angr's own numbers differ now and then between two runs.

    Args:
        text: of one function.
        names: those of the function: in the source, in the symbol tables, and what the decompiler calls it.

    Example:
        >>> print(clean_pseudo("int sub_401340(int a)\n{\n    return sub_4013a0(a);  // rax\n}", ["sub_401340"]))
        int <NAME>(int a)
        {
            return sub(a);
        }
    """
    text = _DECLARATION.sub("", _TEXT_OR_COMMENT.sub(lambda found: found[1] or "", text))
    # The longest first: a name with a suffix of the compiler's holds the name without it.
    text = hide_names(text, sorted({name for name in names if name}, key=len, reverse=True))
    text = _ADDRESS_NAME.sub(r"\1", text)
    numbers: dict[str, int] = {}
    text = _VARIABLE.sub(lambda found: found[1] or f"v{numbers.setdefault(found[0], len(numbers))}", text)
    return _BLANK_LINES.sub("\n", text).strip()
