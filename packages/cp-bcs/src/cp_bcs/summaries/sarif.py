"""Summaries as SARIF 2.1.0, the exchange format of analysis tools (OASIS, 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_RULES = (
    ("function-summary", "What a function does, from the known functions nearest to it."),
    ("no-confident-summary", "A function of which nothing can be said with confidence."),
    ("not-analysed", "A function whose code could not be analysed."),
)


def sarif_log(report: Mapping[str, Any]) -> dict[str, Any]:
    """One result of level ``note`` for each function of a report; see `summarize_program`."""
    artifact = {"uri": quote(str(report["file"])), "index": 0}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "cp-bcs",
                        "version": version("cp-bcs"),
                        "rules": [
                            {"id": name, "shortDescription": {"text": text}, "defaultConfiguration": {"level": "note"}}
                            for name, text in _RULES
                        ],
                    }
                },
                "artifacts": [
                    {
                        "location": {"uri": artifact["uri"]},
                        "hashes": {"sha-256": report["sha256"]},
                        "roles": ["analysisTarget"],
                    }
                ],
                "results": [_result(function, artifact) for function in report["functions"]],
            }
        ],
    }


def _result(function: Mapping[str, Any], artifact: Mapping[str, Any]) -> dict[str, Any]:
    place: dict[str, Any] = {
        "absoluteAddress": int(function["address"], 16),
        "length": function["size"],
        "kind": "function",
    }
    if function["name"]:
        place["name"] = function["name"]
    if "error" in function:
        rule, text = 2, str(function["error"])
    elif function["summary"] is None:
        rule, text = 1, str(function["said"])
    else:
        rule, text = 0, str(function["summary"])
    if function["same_code_as"]:
        text += f" (same code as {', '.join(function['same_code_as'])})"
    result: dict[str, Any] = {
        "ruleId": _RULES[rule][0],
        "ruleIndex": rule,
        "level": "note",
        "message": {"text": text},
        "locations": [{"physicalLocation": {"artifactLocation": dict(artifact), "address": place}}],
    }
    if function["summary"] is not None and function["confidence"] is not None:
        result["rank"] = round(100 * function["confidence"], 2)
    return result
