"""Puts summaries of ``cp-bcs summarize BINARY --index DIR --json`` into an angr project, as comments of functions.

``annotate(project, "BINARY.json")``: angr shows them in its listings, angr management beside the code.
"""

import json
from pathlib import Path


def text_of(function):
    """The comment of a function; empty where nothing is said of it."""
    lines = []
    if function["summary"]:
        lines.append(f"{function['summary']} (cp-bcs, confidence {function['confidence']:.2f})")
    if function["same_code_as"]:
        lines.append(f"Same code as {', '.join(function['same_code_as'])} (cp-bcs)")
    return "\n".join(lines)


def annotate(project, path):
    """Fill ``project.kb.comments``; comments that are there are kept.

    Args:
        project: an ``angr.Project`` of the file that was summarised.
        path: of the JSON file.

    Returns:
        The number of comments written.

    Raises:
        ValueError: the file holds no summaries.
    """
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    if report.get("kind") != "cp-bcs summaries":
        raise ValueError(f"{path} holds no summaries of cp-bcs")
    loaded = project.loader.main_object
    moved = loaded.mapped_base - int(report["base"], 16)
    written = 0
    for function in report["functions"]:
        text = text_of(function)
        address = int(function["address"], 16) + moved
        if text and address not in project.kb.comments:
            project.kb.comments[address] = text
            written += 1
    return written
