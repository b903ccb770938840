from __future__ import annotations

from pathlib import Path

import pytest

from mpo_core.errors import InputFileError
from mpo_core.repro.claims import GreaterCheck, LimitCheck, NotWorseCheck, ValueCheck, load_claims
from mpo_core.repro.paper import Paper

GOOD = """
paper: demo
title: Demo
citation: Somebody 2021
tables:
- id: table1
  caption: Scores
  page: 7
  unit: percent
  seeds: 3
  columns: [mrpc, rte]
  rows:
    full: {mrpc: 88.5, rte: null}
    lfa: {mrpc: 89}
  notes: none
claims:
- {id: v, text: t, place: T1, test: exact, experiment: e,
   check: {kind: value, arm: a, quantity: parameters.total, paper: 1.1e6, round: 1e5}}
- {id: w, text: t, place: T1, test: exact, experiment: e,
   check: {kind: value, arm: a, quantity: q, paper: 2, tolerance: 0.01}}
- {id: l, text: t, place: T1, test: exact, experiment: e,
   check: {kind: at-most, arm: a, quantity: q, limit: 0}}
- {id: g, text: t, place: T1, test: direction, experiment: e,
   check: {kind: greater, arm: a, than: b, quantity: q}}
- {id: m, text: t, place: T1, test: direction, experiment: e,
   check: {kind: not-worse, arm: a, than: b, quantity: q, margin: 0.02, lower_is_better: true}}
- {id: n, text: t, place: T1, test: not-testable, reason: no data, printed: 80.4 against 80.3}
"""


class FolderPaper(Paper):
    folder: Path

    @property
    def files(self) -> Path:
        return self.folder


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    made = FolderPaper("demo", "demo", "Demo", "Somebody 2021")
    object.__setattr__(made, "folder", tmp_path)
    return made


def test_every_kind_of_check_is_read(paper: Paper, tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text(GOOD)
    claims = load_claims(paper)
    checks = {claim.id: claim.check for claim in claims.claims}
    assert checks["v"] == ValueCheck(kind="value", arm="a", quantity="parameters.total", paper=1.1e6, round=1e5)
    assert isinstance(checks["w"], ValueCheck)
    assert isinstance(checks["l"], LimitCheck)
    assert isinstance(checks["g"], GreaterCheck)
    assert checks["g"].arms == ("a", "b")
    assert isinstance(checks["m"], NotWorseCheck)
    assert checks["m"].lower_is_better
    assert checks["n"] is None
    table = claims.tables[0]
    assert (table.page, table.seeds, table.columns) == (7, 3, ("mrpc", "rte"))
    assert table.rows["full"] == {"mrpc": 88.5, "rte": None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reason: no data, ", "", r"claim 'n' is not testable, so it needs a reason"),
        (
            "experiment: e,\n   check: {kind: greater",
            "check: {kind: greater",
            r"claim 'g'.*needs experiment and check",
        ),
        (
            ",\n   check: {kind: at-most, arm: a, quantity: q, limit: 0}",
            "",
            r"claim 'l'.*needs experiment and check",
        ),
        ("round: 1e5", "round: 1e5, tolerance: 0.1", r"claims.0.check': give one of round and tolerance"),
        (", tolerance: 0.01", "", r"claims.1.check': give one of round and tolerance"),
        ("margin: 0.02", "margin: 0", r"'claims.4.check.margin': expected a value greater than 0, found 0"),
        ("margin: 0.02", "margni: 0.02", r"unknown key 'claims.4.check.margni' \(did you mean 'margin'\?"),
        ("kind: at-most", "kind: atmost", r"claims.2.check"),
        (
            "lfa: {mrpc: 89}",
            "lfa: {mrcp: 89}",
            r"row 'lfa' has a cell in 'mrcp', which is none of the columns",
        ),
        ("{mrpc: 88.5", "{mrpc: x", r"'tables.0.rows.full.mrpc': expected a valid number.*found 'x'"),
        ("{id: w,", "{id: v,", r"the claim id 'v' stands twice"),
        ("paper: demo", "paper: other", r"'paper' is 'other'; expected 'demo'"),
        (
            "id: w, text: t, place: T1, test: exact",
            "id: w, text: t, place: T1, test: direction",
            r"cannot be a value",
        ),
        (
            "citation: Somebody 2021",
            "citation: Somebody 2021\ncitation: x",
            r"the key 'citation' stands twice",
        ),
    ],
)
def test_what_does_not_hold_together_is_refused(paper: Paper, tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    (tmp_path / "paper.yaml").write_text(text)
    with pytest.raises(InputFileError, match=message) as caught:
        load_claims(paper)
    assert "demo/paper.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_input_error(paper: Paper) -> None:
    with pytest.raises(InputFileError, match=r"demo/paper.yaml is missing"):
        load_claims(paper)
