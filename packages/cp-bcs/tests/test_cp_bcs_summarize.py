from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cp_bcs.binary.program import Program
from cp_bcs.data.compiling import Twins, embedded_sources
from cp_bcs.data.pairs import OWN_NAME, Pair
from cp_bcs.decompile.decompiler import PseudoCode
from cp_bcs.summaries.binary_summary import summarize_program
from cp_bcs.summaries.calibrating import default_calibration
from cp_bcs.summaries.calibration import NO_SUMMARY
from cp_bcs.summaries.consensus import RetrievalSummarizer
from cp_bcs.summaries.drafts import Draft
from cp_bcs.summaries.knowledge import known_pairs, read_knowledge, write_knowledge
from cp_bcs.summaries.page import render_page
from cp_bcs.summaries.phrase_search import find_phrase
from cp_bcs.summaries.survey import survey
from mpo_core.errors import InputFileError, UsageError

Build = Callable[..., Twins]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def known(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "known"
    write_knowledge(known_pairs([corpus], None, [], None), folder)
    return folder


@pytest.fixture(scope="module")
def report(run: Run, build: Build, known: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of the embedded sources at another level than they are known at, with all its files."""
    out = tmp_path_factory.mktemp("report") / "embedded"
    binary = build("x64", "O1").stripped
    run("summarize", binary, "--index", known, "--out", out, "--html", "--json", "--sarif")
    told: dict[str, Any] = json.loads(out.with_name("embedded.json").read_text())
    return told | {"binary": binary, "out": out}


def sentences(corpus: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (corpus / "pairs.jsonl").read_text().splitlines()]
    return {row["name"]: row["sentence"] for row in rows}


# -- summarize -----------------------------------------------------------------------------------------------------


def test_every_function_has_an_entry_with_its_evidence(report: dict[str, Any]) -> None:
    program = Program.read(report["binary"])
    functions = report["functions"]
    assert [int(each["address"], 16) for each in functions] == [each.address for each in program.functions]
    by_address = {each["address"]: each for each in functions}
    for each in functions:
        assert len(each["code"]) == each["instructions"] > 0
        assert 1 <= len(each["known"]) <= 6
        assert [k["similarity"] for k in each["known"][:5]] == sorted(
            (k["similarity"] for k in each["known"][:5]), reverse=True
        )
        assert all(0 <= row["weight"] <= 1 for row in each["code"])
        for callee in each["calls"]:
            assert each["address"] in by_address[callee]["callers"]
    assert report["counts"]["functions"] == len(functions)
    assert report["counts"]["failed"] == 0
    assert report["index"]["projects"] == {"embedded": report["index"]["functions"]}


def test_what_is_not_confident_is_kept_as_a_draft(report: dict[str, Any]) -> None:
    shown = [each for each in report["functions"] if each["summary"] is not None]
    others = [each for each in report["functions"] if each["summary"] is None]
    assert shown
    assert others
    assert all(each["confidence"] >= report["threshold"] for each in shown)
    assert all(each["summary"] == each["said"] == each["draft"] for each in shown)
    assert all(each["said"] == NO_SUMMARY for each in others)
    assert any(each["draft"] for each in others)
    assert all(each["confidence"] < report["threshold"] for each in others if each["draft"])


def test_known_code_is_recognised_and_summarised_right(
    run: Run, build: Build, corpus: Path, known: Path, tmp_path: Path, report: dict[str, Any]
) -> None:
    """The very build that the index knows, stripped: what has a body of its own gets its own comment."""
    out = tmp_path / "same.json"
    run("summarize", build("x64").stripped, "--index", known, "--out", out, "--json")
    told = json.loads(out.read_text())
    program = Program.read(build("x64").unstripped)
    names = {f"{each.address:#x}": each.name or "" for each in program.functions}
    written = sentences(corpus)
    alone = [e for e in told["functions"] if e["copies"] == 1 and names[e["address"]] in written]
    assert len(alone) > 120
    assert all(names[each["address"]] in each["same_code_as"] for each in alone)
    shown = [each for each in alone if each["summary"] is not None]
    assert len(shown) > 0.8 * len(alone)
    assert all(each["summary"] == written[names[each["address"]]] for each in shown)
    callers = [row for each in told["functions"] for row in each["code"] if "callee" in row]
    assert {row["callee"] for row in callers} <= {each["summary"] for each in told["functions"]}
    assert len(callers) > 20


def test_without_an_index_there_are_facts_alone(run: Run, build: Build, tmp_path: Path) -> None:
    out = tmp_path / "facts"
    run("summarize", build("x64").stripped, "--out", out, "--html", "--json")
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["index"] is None
    assert {each["said"] for each in told["functions"]} == {NO_SUMMARY}
    assert any(each["strings"] for each in told["functions"])
    assert "No index of known functions was given" in out.with_suffix(".html").read_text()


class Listener:
    """Says nothing, and keeps what it was given to read."""

    reads_pseudo = True

    def __init__(self) -> None:
        self.read: dict[int, Pair] = {}

    def summarize(self, functions: Sequence[Pair]) -> list[Draft]:
        self.read |= {function.address: function for function in functions}
        return [Draft("", 0.0) for _ in functions]


def test_a_summarizer_reads_pseudo_code_that_is_whole(build: Build, tmp_path: Path) -> None:
    program = Program.read(build("x64").stripped)
    whole, part, failed, *_, last = [function.address for function in program.functions]
    text = f"int sub_{whole:x}(int a1)\n{{\n    return sub_401000(a1);  // eax\n}}"
    made = {
        whole: PseudoCode(text, covered=1.0, name=f"sub_{whole:x}"),
        part: PseudoCode(text, covered=0.2, name=f"sub_{part:x}"),
        failed: PseudoCode(failure="time"),
    }
    listener = Listener()
    told = summarize_program(program, (listener, default_calibration()), tmp_path, made)
    shown = {int(each["address"], 16): each["pseudo_code"] for each in told["functions"]}
    assert shown[whole] == text
    assert shown[part] == f"/* only a part of the function was decompiled */\n{text}"
    assert shown[failed] is shown[last] is None
    assert listener.read[whole].pseudo == f"int {OWN_NAME}(int a1)\n{{\n    return sub(a1);\n}}"
    assert [listener.read[address].pseudo for address in (part, failed, last)] == [None] * 3


def test_a_function_that_cannot_be_analysed_costs_only_itself(
    run: Run, build: Build, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = build("x64").stripped
    broken = Program.read(binary).functions[40].address
    whole = Program.code

    def code(self: Program, function: Any) -> Any:
        if function.address == broken:
            raise IndexError("beyond the end")
        return whole(self, function)

    monkeypatch.setattr(Program, "code", code)
    run("summarize", binary, "--index", known, "--out", tmp_path / "x", "--html", "--json", "--sarif")
    told = json.loads((tmp_path / "x.json").read_text())
    assert told["counts"]["failed"] == 1
    entry = next(each for each in told["functions"] if int(each["address"], 16) == broken)
    assert entry["error"] == "IndexError: beyond the end"
    assert "IndexError: beyond the end" in (tmp_path / "x.html").read_text()
    assert len(json.loads((tmp_path / "x.sarif").read_text())["runs"][0]["results"]) == len(told["functions"])


KILLED = """
import os, signal, sys
from pathlib import Path
from cp_bcs import summary_commands

class Killing(summary_commands.StepProgress):
    def __call__(self, step, total, text=""):
        if text == "summarising" and step > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

summary_commands.StepProgress = Killing
binary, index, out = map(Path, sys.argv[1:])
summary_commands.summarize(binary, None, index, out, ["html", "json"])
"""


def test_a_killed_job_goes_on_and_ends_the_same(
    run: Run, report: dict[str, Any], known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, binary = tmp_path / "embedded", report["binary"]
    done = subprocess.run([sys.executable, "-c", KILLED, binary, known, out], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    folder = tmp_path / "embedded.html.summarizing"
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    assert list(folder.glob("batch-*.json"))
    with pytest.raises(UsageError, match="was begun with outputs"):
        run("summarize", binary, "--index", known, "--out", out, "--html")
    asked: list[int] = []
    whole = RetrievalSummarizer.summarize
    monkeypatch.setattr(
        RetrievalSummarizer, "summarize", lambda self, pairs: (asked.append(len(pairs)), whole(self, pairs))[1]
    )
    out.with_suffix(".json").write_text("of the first try, which was stopped while it wrote")
    run("summarize", binary, "--index", known, "--out", out, "--html", "--json")
    assert 0 < sum(asked) < len(report["functions"]) / 2
    assert not folder.exists()
    for ending in (".json", ".html"):
        assert out.with_suffix(ending).read_bytes() == report["out"].with_suffix(ending).read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        run("summarize", binary, "--index", known, "--out", out, "--html")


# -- the files -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Elements and attributes of a page, and all its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_holds_every_function(report: dict[str, Any]) -> None:
    page = Page(report["out"].with_name("embedded.html").read_text())
    kinds = [tag for tag, _ in page.elements]
    assert kinds.count("details") == len(report["functions"])
    assert kinds.count("script") == kinds.count("style") == 1
    assert not {"link", "img", "iframe", "base", "object"} & set(kinds)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links <= {f"#{each}" for each in ids}
    assert len(links) > 50
    assert not any(
        "src" in attributes or any(n.startswith("on") for n in attributes) for _, attributes in page.elements
    )
    for each in report["functions"]:
        named = {f["address"]: f["name"] for f in report["functions"]}
        unsaid = f"part of {named[each['part_of']] or each['part_of']}" if each["part_of"] else NO_SUMMARY
        assert (each["summary"] or unsaid) in page.text


def test_a_closed_entry_tells_strings_before_imports(report: dict[str, Any]) -> None:
    text = render_page(report)
    closed = [part.split("</summary>")[0] for part in text.split("<summary>")[1:]]
    told = [entry for entry in report["functions"] if not entry["part_of"]]
    for entry, shown in zip(report["functions"], closed, strict=True):
        names = [name for name in entry["imports"] if name != "__stack_chk_fail"]
        assert entry["part_of"] or not names or 'class="hints"' in shown
        assert "__stack_chk_fail" not in shown
    spoken = [e for e in told if any(c.isalpha() for text in e["strings"] for c in text)]
    assert spoken
    for entry in spoken:
        shown = closed[report["functions"].index(entry)]
        assert shown.split('class="hints">')[1].startswith("<code>&#34;")
    assert max(shown.count("<code>") for shown in closed) <= 7


HOSTILE = r"""
#include <stdio.h>
const char *said_to_page(int n) { return n ? "<script>alert(1)</script>" : "</pre><img src=x onerror=alert(2)>"; }
const char *told(int n) { return n > 3 ? "{% raw %}" : "a\tb {{ 7 * 7 }}"; }
int odd_AAAAAAAAAAAAAAA(int n) { return printf("%d & \"%s\"\n", n, told(n)) + n; }
"""


def test_what_a_binary_says_is_text_on_the_page(
    run: Run, compile_c: Callable[..., Twins], known: Path, tmp_path: Path
) -> None:
    name = "odd<b>\"'&\u202e</pre>z"  # one turns the direction of writing round
    binary = tmp_path / "<i>lib.so"
    data = compile_c(HOSTILE, "hostile").stripped.read_bytes()
    placeholder = b"odd_AAAAAAAAAAAAAAA"
    assert placeholder in data
    assert len(placeholder) == len(name.encode())
    binary.write_bytes(data.replace(placeholder, name.encode()))
    out = tmp_path / "page"
    run("summarize", binary, "--index", known, "--out", out, "--html", "--json", "--sarif")
    text = out.with_suffix(".html").read_text()
    page = Page(text)
    told = json.loads(out.with_suffix(".json").read_text())
    kinds = [tag for tag, _ in page.elements]
    assert kinds.count("script") == 1
    assert not {"img", "b", "i"} & set(kinds)
    assert kinds.count("details") == len(told["functions"])
    for shown in ("<script>alert(1)</script>", "</pre><img src=x onerror=alert(2)>", "a\\tb {{ 7 * 7 }}", "<i>lib.so"):
        assert shown in page.text
    assert any(each["name"] == name for each in told["functions"])
    assert name.replace("\u202e", "\\u202e") in page.text
    assert "\u202e" not in text
    log = json.loads(out.with_suffix(".sarif").read_text())
    assert log["runs"][0]["artifacts"][0]["location"]["uri"] == "%3Ci%3Elib.so"


def test_sarif_has_what_its_schema_requires(report: dict[str, Any]) -> None:
    log = json.loads(report["out"].with_name("embedded.sarif").read_text())
    assert log["version"] == "2.1.0"
    (only,) = log["runs"]
    driver = only["tool"]["driver"]
    assert driver["name"] == "cp-bcs"
    assert all(rule["id"] and rule["shortDescription"]["text"] for rule in driver["rules"])
    assert len(only["artifacts"][0]["hashes"]["sha-256"]) == 64
    assert len(only["results"]) == len(report["functions"])
    for result, function in zip(only["results"], report["functions"], strict=True):
        assert result["level"] == "note"
        assert result["message"]["text"].startswith(function["said"])
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["index"] == 0
        assert place["address"]["absoluteAddress"] == int(function["address"], 16) >= 0
        assert place["address"]["length"] == function["size"]
        assert 0 <= result.get("rank", 0) <= 100


def test_scripts_for_other_tools_are_written(run: Run, tmp_path: Path) -> None:
    for tool in ("ghidra", "angr"):
        out = tmp_path / f"{tool}.py"
        run("export", tool, "--out", out)
        compile(out.read_text(), out.name, "exec")
    with pytest.raises(UsageError, match="no script for 'ida'; there are ghidra, angr"):
        run("export", "ida")


# -- index and search ----------------------------------------------------------------------------------------------


def test_search_finds_the_function_that_a_phrase_describes(build: Build, known: Path) -> None:
    surveyed = survey(Program.read(build("x64").stripped))
    names = {each.address: each.name for each in Program.read(build("x64").unstripped).functions}
    index = read_knowledge(known).index
    for phrase, name in (("Fletcher checksums", "sum_fletcher16"), ("is it a leap year?", "date_is_leap")):
        hits = find_phrase(surveyed, index, phrase, top=3)
        assert names[hits[0].address] == name
        assert all(1 >= hit.score >= hit.evidence[0].score > 0 for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert hits[0].evidence[0].origin is not None


def test_search_without_an_index_reads_strings_and_imports(
    run: Run, build: Build, tmp_path: Path, compile_c: Callable[..., Twins]
) -> None:
    out = tmp_path / "hits.json"
    text = "int check(int n) { return n; }\n" + HOSTILE.replace("<script>alert(1)</script>", "cannot parse the header")
    run("search", compile_c(text, "own").stripped, "parses headers", "--json", out)
    told = json.loads(out.read_text())
    assert told["hits"][0]["name"] == "said_to_page"
    assert told["hits"][0]["evidence"][0]["text"] == "cannot parse the header"


def test_an_unstripped_build_gives_names_without_sentences(
    run: Run, build: Build, corpus: Path, tmp_path: Path
) -> None:
    twins = build("x64")
    folder = tmp_path / "names"
    run("index", "--elf", twins.unstripped, "--out", folder)
    told = json.loads((folder / "index.json").read_text())
    assert told["functions"] > 150
    assert told["with_sentence"] == 0
    out = tmp_path / "names.json"
    run("summarize", twins.stripped, "--index", folder, "--out", out, "--json")
    functions = json.loads(out.read_text())["functions"]
    names = {f"{each.address:#x}": each.name for each in Program.read(twins.unstripped).functions}
    alone = [each for each in functions if each["copies"] == 1 and each["instructions"] > 4]
    assert all(names[each["address"]] in each["same_code_as"] for each in alone)
    assert all(each["summary"] is None and each["draft"] is None for each in functions)
    with pytest.raises(InputFileError, match="names no function: it is stripped"):
        known_pairs([], None, [twins.stripped], None)


def test_sources_and_build_give_sentences_and_the_other_names(build: Build, corpus: Path) -> None:
    twins = build("x64")
    pairs = known_pairs([], embedded_sources()[0].parent, [twins.unstripped], "mine")
    documented = {pair.name: pair.sentence for pair in pairs if pair.sentence}
    assert documented == sentences(corpus)
    others = {pair.name for pair in pairs if not pair.sentence}
    assert "main" in others
    assert not others & set(documented)
    assert {pair.project for pair in pairs} == {"mine"}


def test_bad_input_is_refused(run: Run, build: Build, known: Path, corpus: Path, tmp_path: Path) -> None:
    binary = build("x64").stripped
    with pytest.raises(InputFileError, match="no ELF file"):
        run("summarize", __file__, "--index", known, "--out", tmp_path / "x")
    with pytest.raises(InputFileError, match="is no index"):
        run("summarize", binary, "--index", corpus, "--out", tmp_path / "x")
    with pytest.raises(InputFileError, match="no trained network"):
        run("summarize", binary, "--model", tmp_path, "--out", tmp_path / "x")
    with pytest.raises(UsageError, match="no folder to write"):
        run("summarize", binary, "--out", tmp_path / "none" / "x")
    with pytest.raises(UsageError, match="has no word"):
        run("search", binary, " -- ", "--index", known)
    with pytest.raises(UsageError, match="needs known functions"):
        run("index", "--out", tmp_path / "x")
    with pytest.raises(UsageError, match="needs the binary"):
        run("index", "--src", tmp_path, "--out", tmp_path / "x")
    with pytest.raises(UsageError, match="exists already"):
        run("index", "--corpus", corpus, "--out", known)
    assert not list(tmp_path.iterdir())


def test_a_damaged_index_is_refused(known: Path, tmp_path: Path) -> None:
    for name in ("pairs.jsonl", "vocabulary.json", "weights.safetensors", "index.json"):
        folder = tmp_path / name
        folder.mkdir()
        for path in known.iterdir():
            data = path.read_bytes()
            (folder / path.name).write_bytes(data[:-9] if path.name == name else data)
        with pytest.raises(InputFileError, match="damaged"):
            read_knowledge(folder)
    told = json.loads((known / "index.json").read_text())
    for change in ({"kind": "something"}, {"schema_version": 2}, {"calibration": {}}, {"sha256": None}):
        (folder / "index.json").write_text(json.dumps(told | change))
        with pytest.raises(InputFileError, match=r"index|calibration"):
            read_knowledge(folder)


def test_one_shape_with_another_constant_is_not_called_the_same_code(run: Run, compile_c: Any, tmp_path: Path) -> None:
    text = """
/* Compute the check sum of a buffer as Ethernet and zip do. */
unsigned NAME(const unsigned char *p, int n)
{
    unsigned c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int k = 8; k; k--)
            c = c >> 1 ^ (POLYNOMIAL & -(c & 1));
    }
    return ~c;
}
"""
    known = compile_c(text.replace("NAME", "crc_zip").replace("POLYNOMIAL", "0xedb88320u"), "zip")
    other = compile_c(text.replace("NAME", "crc_iscsi").replace("POLYNOMIAL", "0x82f63b78u"), "iscsi")
    run("index", "--src", known.unstripped.parent, "--elf", known.unstripped, "--out", tmp_path / "known")
    told = {}
    for twins, name in ((known, "zip"), (other, "iscsi")):
        run("summarize", twins.stripped, "--index", tmp_path / "known", "--out", tmp_path / name, "--json", "--html")
        report = json.loads((tmp_path / f"{name}.json").read_text())
        told[name] = next(each for each in report["functions"] if each["name"] == f"crc_{name}")
    assert told["zip"]["same_code_as"] == ["crc_zip"]
    assert told["zip"]["same_shape_as"] == []
    assert told["iscsi"]["same_code_as"] == []
    assert told["iscsi"]["same_shape_as"] == ["crc_zip"]
    assert told["iscsi"]["confidence"] < told["zip"]["confidence"]
    page = (tmp_path / "iscsi.html").read_text()
    assert "shape of crc_zip, but other constants" in page
    assert "a random comment has a chance of 50 %" in page


def test_summaries_are_written_into_a_folder_that_is_there(run: Run, build: Build, known: Path, tmp_path: Path) -> None:
    binary = build("x64").stripped
    run("summarize", binary, "--index", known, "--out", tmp_path, "--json")
    assert (tmp_path / f"{binary.name}.json").is_file()


def test_what_a_function_calls_tells_it_from_others_of_the_same_instructions(
    run: Run, compile_c: Any, tmp_path: Path
) -> None:
    text = """
__attribute__((noinline)) static int down(int n) { int s = 1; while (n > 7) { s *= n; n -= 7; } return s; }
__attribute__((noinline)) static int up(int n) { int s = 1; while (n < 7) { s *= n; n += 3; } return s; }
/* Add the falling products of all numbers up to one. */
int falling(int n) { int s = 0; while (n) s += down(n--); return s; }
/* Add the rising products of all numbers up to one. */
int rising(int n) { int s = 0; while (n) s += up(n--); return s; }
"""
    twins = compile_c(text, "products")
    run("index", "--src", twins.unstripped.parent, "--elf", twins.unstripped, "--out", tmp_path / "known")
    run("summarize", twins.stripped, "--index", tmp_path / "known", "--out", tmp_path / "told", "--json")
    functions = json.loads((tmp_path / "told.json").read_text())["functions"]
    told = {each["name"]: each for each in functions if each["name"]}
    for name, other in (("falling", "rising"), ("rising", "falling")):
        first, second = (known for known in told[name]["known"] if known["name"] in ("falling", "rising"))
        assert (first["name"], first["same_code"], first["similarity"]) == (name, True, 1)
        assert (second["name"], second["same_code"], second["same_shape"]) == (other, False, True)
        assert second["similarity"] < 1
