from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mpo_core.repro.claims import ClaimsFile
from mpo_core.repro.compare import VERDICTS, compare
from mpo_core.repro.paper import Paper
from mpo_core.repro.plots import array_plots, dot_plots, series_plots
from mpo_core.repro.record import (
    Environment,
    Measurement,
    ParameterCount,
    RunRecord,
    SeriesPoint,
    TrialRecord,
)
from mpo_core.repro.report import PaperSection, format_duration, render_report, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
PAPER = Paper("demo", "demo", "A paper on <cores> & bonds", "Somebody, 2021")
CLAIMS = ClaimsFile.model_validate(
    {
        "paper": "demo",
        "title": "t",
        "citation": "c",
        "tables": [
            {
                "id": "table1",
                "caption": "Scores",
                "page": 3,
                "unit": "percent",
                "columns": ["x", "y"],
                "rows": {"r": {"x": 88.5, "y": None}},
            }
        ],
        "claims": [
            {
                "id": "seen",
                "text": "lfa beats head",
                "place": "T1",
                "test": "direction",
                "experiment": "tiny",
                "check": {"kind": "greater", "arm": "lfa", "than": "head", "quantity": "accuracy"},
            },
            {
                "id": "unseen",
                "text": "head beats lfa",
                "place": "T1",
                "test": "direction",
                "experiment": "tiny",
                "check": {"kind": "greater", "arm": "head", "than": "lfa", "quantity": "accuracy"},
            },
            {
                "id": "count",
                "text": "it has 1.2M parameters",
                "place": "T1",
                "test": "exact",
                "experiment": "tiny",
                "check": {
                    "kind": "value",
                    "arm": "lfa",
                    "quantity": "parameters.total",
                    "paper": 1.2e6,
                    "round": 1e5,
                },
            },
            {
                "id": "absent",
                "text": "another",
                "place": "T2",
                "test": "direction",
                "experiment": "later",
                "check": {"kind": "greater", "arm": "a", "than": "b", "quantity": "q"},
            },
            {
                "id": "closed",
                "text": "a third",
                "place": "T3",
                "test": "not-testable",
                "reason": "needs <private> data",
            },
        ],
    }
)


def trial(arm: str, seed: int, value: float, stage: str = "final", rate: float = 1e-3, **changes: Any) -> TrialRecord:
    content: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "learning_rate": rate,
        "stage": stage,
        "status": "completed",
        "seconds": 12.0,
        "peak_memory_bytes": 3 * 1024**2,
        "parameters": ParameterCount(total=1_195_000, trained=10),
        "metrics": {
            "accuracy": Measurement(value=value, n=40, split="eval"),
            "f1": Measurement(value=value / 2),
        },
        "series": [SeriesPoint(step=k, values={"loss": 1 / k + value, "learning_rate": 0.1}) for k in range(1, 9)],
        "arrays": {f"bond {k} spectrum": [10.0**-i for i in range(6)] + [0.0] for k in (1, 2)},
        "notes": ["<script>alert(1)</script>"] if seed == 0 else [],
    }
    return TrialRecord.model_validate(content | changes)


@pytest.fixture(scope="module")
def record() -> RunRecord:
    trials = [
        trial(arm, seed, base + 0.01 * (seed % 3)) for arm, base in (("lfa", 0.8), ("head", 0.6)) for seed in range(5)
    ]
    trials += [
        trial("lfa", 100, 0.7, "sweep", 1e-3),
        trial("lfa", 100, 0, "sweep", 1.0, status="diverged", metrics={}),
    ]
    environment = Environment(
        git_revision="0123456789abcdef+dirty",
        packages={"torch": "2.0"},
        python="3.11.1",
        machine="x86_64, CPU",
        cores=2,
        threads_per_worker=1,
    )
    return RunRecord(
        paper="demo",
        experiment="tiny",
        scale="small",
        started="2025-03-04T05:06:07+00:00",
        seconds=600.0,
        status="completed",
        config={"arms": {"lfa": {}, "head": {}}, "select_metric": "accuracy"},
        environment=environment,
        chosen_learning_rates={"lfa": 1e-3},
        trials=trials,
    )


@pytest.fixture(scope="module")
def page(record: RunRecord) -> str:
    other = record.model_copy(update={"experiment": "twin", "status": "diverged"})
    return render_report([PaperSection(PAPER, CLAIMS, [record, other], compare(CLAIMS, [record]))], "A report")


class Outline(HTMLParser):
    """Collects what the tests ask of the page, and checks that its tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def having(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.tags if attribute in attrs]


def test_the_page_nests_and_its_headings_go_step_by_step(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert ("html", {"lang": "en"}) in outline.tags
    assert sum(tag == "caption" for tag, _ in outline.tags) == sum(tag == "table" for tag, _ in outline.tags)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in outline.tags}
    targets = [*outline.having("href"), *outline.having("xlink:href"), *outline.having("src")]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_ids_are_unique_and_every_reference_has_its_target(page: str) -> None:
    outline = Outline(page)
    ids = outline.having("id")
    assert len(ids) == len(set(ids))
    referenced = {t[1:] for t in [*outline.having("href"), *outline.having("xlink:href")]}
    referenced |= set(re.findall(r"url\(#([^)]+)\)", page)) | set(outline.having("aria-labelledby"))
    assert referenced <= set(ids)


def test_every_verdict_is_worded_and_counted(page: str) -> None:
    text = " ".join(Outline(page).text.split())
    assert "1 reproduced 1 same direction 1 not seen 1 not testable here 1 not run" in text
    for name in VERDICTS:
        assert f'<span class="badge {name.replace(" ", "-")}">{name}</span>' in page
    assert "the sign is the other one" in text
    assert "needs <private> data" in text
    assert "no record of later" in text
    assert "5 claims of 1 paper, held against 2 measured records." in text
    assert "A final trial of this run diverged" in text


def test_the_record_is_told_whole(page: str) -> None:
    text = Outline(page).text.replace("\u00a0", " ")
    for part in (
        "2025-03-04",
        "10 min",
        "0123456789+dirty",
        "x86_64, CPU, 2 cores",
        "torch 2.0",
        "1,195,000",
        "0.8080 ± 0.0084",
        "1 of 1 diverged",
        "chosen",
        "select_metric: accuracy",
        "88.5",
        "Somebody, 2021",
        "split eval, 40 examples",
        "accuracy",
        "loss while training",
        "lfa: bond spectrum",
    ):
        assert part in text, part


def test_text_from_records_and_papers_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (seed 0)" in page
    assert "A paper on &lt;cores&gt; &amp; bonds" in page


def test_the_same_records_give_the_same_bytes(record: RunRecord, tmp_path: Path) -> None:
    sections = [PaperSection(PAPER, CLAIMS, [record], compare(CLAIMS, [record]))]
    write_report(sections, tmp_path / "new" / "one.html", "T")
    write_report(sections, tmp_path / "two.html", "T")
    assert (tmp_path / "new" / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new", "two.html"], "no temporary file stays"


def test_a_report_without_records() -> None:
    page = render_report([PaperSection(PAPER, CLAIMS, [], compare(CLAIMS, []))], "T")
    text = " ".join(Outline(page).text.split())
    assert "nothing yet: no record was found" in text
    assert "Without a record: tiny, later." in text
    assert "0 reproduced 0 same direction 0 not seen 1 not testable here 4 not run" in text
    assert Outline(render_report([], "T")).open == []


def test_plots_are_described_svg_in_the_colours_of_the_page(record: RunRecord) -> None:
    dots, series, arrays = dot_plots(record, "p"), series_plots(record, "p"), array_plots(record, "p")
    assert [plot.title for plot in dots] == ["accuracy", "f1"]
    assert [plot.title for plot in series] == ["loss while training"]
    assert [plot.title for plot in arrays] == ["lfa: bond spectrum", "head: bond spectrum"]
    for plot in [*dots, *series, *arrays]:
        tree = ElementTree.fromstring(plot.svg)  # noqa: S314 (our own text)
        assert tree.get("role") == "img"
        assert not re.search(r"#0102\d\d", plot.svg), "every placeholder became a variable of the page"
        assert "var(--ink)" in plot.svg
        assert "font-family" not in plot.svg
    label = ElementTree.fromstring(dots[0].svg).get("aria-label")  # noqa: S314
    assert label == "accuracy of each arm: lfa 0.8080 ± 0.0084; head 0.6080 ± 0.0084."
    assert "1e-05" in arrays[0].svg or "0.0001" in arrays[0].svg, "decades are labelled on a logarithmic axis"


def test_every_seed_is_a_dot(record: RunRecord) -> None:
    svg = dot_plots(record, "p")[0].svg
    dots = [use for use in re.findall(r"<use [^>]+>", svg) if re.search(r"--series-[12]\)", use)]
    assert len(dots) == 10


def test_a_metric_that_does_not_vary_gets_no_plot(record: RunRecord) -> None:
    constant = record.model_copy(update={"trials": [trial(arm, 0, 0.5) for arm in ("lfa", "head")]})
    assert dot_plots(constant, "p") == []
    varied = record.model_copy(update={"trials": [trial("lfa", 0, 0.5), trial("head", 0, 0.6)]})
    assert [plot.caption for plot in dot_plots(varied, "p")] == ["Every seed is a dot."] * 2
    single = record.model_copy(update={"trials": [trial("lfa", 0, 0.5, series=[], arrays={})]})
    assert dot_plots(single, "p") == series_plots(single, "p") == array_plots(single, "p") == []


def test_groups_of_arrays_share_a_plot(record: RunRecord) -> None:
    arrays = {
        "spectrum/1": [3.0, 2.0],
        "spectrum/2": [3.0, 1.0],
        "entropy/all": [0.1],
        "long/x": [1.0] * 5000,
        "empty/x": [],
    }
    grouped = record.model_copy(update={"trials": [trial("lfa", 3, 0.5, arrays=arrays)]})
    plots = array_plots(grouped, "p")
    assert [plot.title for plot in plots] == ["lfa: spectrum", "lfa: entropy", "lfa: long", "lfa: empty"]
    assert plots[0].caption == "Seed 3."
    assert len(plots[2].svg) < 60_000, "a long array is thinned"


def test_arrays_with_steps_are_drawn_against_them(record: RunRecord) -> None:
    arrays = {"squeezing/step": [7.0, 20.0, 40.0], "squeezing/size": [1.0, 0.8, 0.5], "squeezing/odd": [1.0]}
    stepped = record.model_copy(update={"trials": [trial("lfa", 0, 0.5, arrays=arrays)]})
    (plot,) = array_plots(stepped, "p")
    assert plot.title == "lfa: squeezing, size"
    assert "optimizer step" in plot.svg
    assert ">40<" in plot.svg, "the axis counts steps"


def test_durations() -> None:
    assert [format_duration(s) for s in (0.04, 8.44, 720, 12_600)] == ["< 0.1 s", "8.4 s", "12 min", "3.5 h"]
