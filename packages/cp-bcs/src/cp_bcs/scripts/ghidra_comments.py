# Puts summaries of `cp-bcs summarize BINARY --index DIR --json` into Ghidra, as plate comments of functions.
# Run it in Ghidra's script manager on the program that was summarised (Jython 2.7 or PyGhidra). A comment that is
# there is kept.
# @category cp-bcs
# pyright: reportUndefinedVariable=false
# ruff: noqa: F821, UP020, UP031, D100, D103
import io
import json


def text_of(function):
    lines = []
    if function["summary"]:
        lines.append("%s (cp-bcs, confidence %.2f)" % (function["summary"], function["confidence"]))
    if function["same_code_as"]:
        lines.append("Same code as %s (cp-bcs)" % ", ".join(function["same_code_as"]))
    return "\n".join(lines)


def annotate(report):
    moved = currentProgram.getImageBase().getOffset() - int(report["base"], 16)
    written = 0
    for function in report["functions"]:
        text = text_of(function)
        address = toAddr(int(function["address"], 16) + moved)
        if text and not getPlateComment(address):
            setPlateComment(address, text)
            written += 1
    return written


def main():
    path = askFile("Summaries that cp-bcs wrote (JSON)", "Open").getPath()
    with io.open(path, encoding="utf-8") as opened:
        report = json.load(opened)
    if report["kind"] != "cp-bcs summaries":
        raise ValueError("this file holds no summaries of cp-bcs")
    if currentProgram.getExecutableSHA256() not in (None, report["sha256"]):
        raise ValueError("these are the summaries of another file")
    print("%d comments written" % annotate(report))


if __name__ == "__main__":
    main()
