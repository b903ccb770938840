"""The model of ``paper.yaml``: the paper's own numbers, and its claims with how each is tested here."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from mpo_core.errors import InputFileError
from mpo_core.repro.config import StrictModel
from mpo_core.repro.paper import Paper
from mpo_core.repro.reading import read_yaml_mapping, validation_sentence

FILE = "paper.yaml"


class PaperTable(StrictModel):
    """One table (or figure) of the paper, as printed.

    Attributes:
        id: what experiments call it in ``reproduces``.
        caption: the paper's caption, shortened.
        page: page of the paper.
        unit: what the numbers are (percent, million parameters, …).
        seeds: runs behind each number, where the paper says.
        columns: column names in the paper's order.
        rows: row -> column -> number; ``null`` or an absent column where the paper prints none.
        notes: what to know when reading it.
    """

    id: str
    caption: str
    page: int | None = None
    unit: str | None = None
    seeds: int | None = None
    columns: tuple[str, ...]
    rows: dict[str, dict[str, FiniteFloat | None]]
    notes: str = ""

    @model_validator(mode="after")
    def _cells_stand_in_columns(self) -> PaperTable:
        for row, cells in self.rows.items():
            unknown = [column for column in cells if column not in self.columns]
            if unknown:
                raise ValueError(f"row {row!r} has a cell in {unknown[0]!r}, which is none of the columns")
        return self


class _Check(StrictModel):
    """What every check shares: the arm, and the quantity.

    A quantity is a metric, ``parameters.total`` or ``parameters.trained``.
    """

    arm: str
    quantity: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that a record must have for this check."""
        return (self.arm,)


class ValueCheck(_Check):
    """Our mean equals the paper's number.

    Attributes:
        paper: the paper's number, in the unit of our record.
        round: the last place that the paper prints: 12.7 million has ``round: 100000``.
        tolerance: instead of ``round``, the relative difference allowed.
    """

    kind: Literal["value"]
    paper: FiniteFloat
    round: FiniteFloat | None = Field(default=None, gt=0)
    tolerance: FiniteFloat | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_precision(self) -> ValueCheck:
        if (self.round is None) == (self.tolerance is None):
            raise ValueError("give one of round and tolerance")
        return self


class LimitCheck(_Check):
    """The quantity keeps a limit: in every seed (exact), or by a one-sided t-test (direction)."""

    kind: Literal["at-most", "at-least"]
    limit: FiniteFloat


class _PairCheck(_Check):
    than: str
    lower_is_better: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that a record must have for this check."""
        return (self.arm, self.than)


class GreaterCheck(_PairCheck):
    """The arm is better than the other one (greater; smaller where ``lower_is_better``).

    Attributes:
        cases: the array of the record's trials that holds the quantity of each case (function, sentence): the test is
            then a paired bootstrap over cases; without it, a t-test over seeds.
    """

    kind: Literal["greater"]
    cases: str | None = None


class NotWorseCheck(_PairCheck):
    """The arm is not worse than the other one by ``margin`` or more (non-inferiority)."""

    kind: Literal["not-worse"]
    margin: FiniteFloat = Field(gt=0)


Check = Annotated[ValueCheck | LimitCheck | GreaterCheck | NotWorseCheck, Field(discriminator="kind")]


class Claim(StrictModel):
    """One claim of the paper, and how it is tested here.

    Attributes:
        id: unique in the paper.
        text: the claim in one sentence.
        place: where the paper makes it.
        test: ``exact`` (counts, identities), ``direction`` (same sign, on what can be had here) or
            ``not-testable``.
        experiment: the experiment that tests it.
        reason: why it is not testable here.
        check: what is checked in the experiment's record.
        printed: the paper's own figures in words, for the comparison table (``80.4 against 80.3``).
    """

    id: str
    text: str
    place: str
    test: Literal["exact", "direction", "not-testable"]
    experiment: str | None = None
    reason: str | None = None
    check: Check | None = None
    printed: str | None = None

    @model_validator(mode="after")
    def _testable_or_reasoned(self) -> Claim:
        if self.test == "not-testable":
            if not self.reason:
                raise ValueError(f"claim {self.id!r} is not testable, so it needs a reason")
            if self.check is not None:
                raise ValueError(f"claim {self.id!r} is not testable, so it cannot have a check")
        elif self.experiment is None or self.check is None:
            raise ValueError(f"claim {self.id!r} is tested as {self.test}, so it needs experiment and check")
        elif self.test == "direction" and self.check.kind == "value":
            raise ValueError(f"claim {self.id!r} is tested as direction, so its check cannot be a value")
        elif self.test == "exact" and isinstance(self.check, GreaterCheck) and self.check.cases:
            raise ValueError(f"claim {self.id!r} is tested as exact, so its check cannot name cases")
        return self


class ClaimsFile(StrictModel):
    """The file ``paper.yaml``: whose numbers, the tables, the claims."""

    paper: str
    title: str
    citation: str
    tables: tuple[PaperTable, ...] = ()
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> ClaimsFile:
        for what, ids in (("table", [t.id for t in self.tables]), ("claim", [c.id for c in self.claims])):
            twice = [name for name, count in Counter(ids).items() if count > 1]
            if twice:
                raise ValueError(f"the {what} id {twice[0]!r} stands twice")
        return self


def load_claims(paper: Paper) -> ClaimsFile:
    """Read a paper package's ``paper.yaml``.

    Raises:
        InputFileError: the file is missing, not YAML, not of this form, or of another paper.
    """
    where = f"{paper.name}/{FILE}"
    file = paper.files.joinpath(FILE)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputFileError(f"{where} is missing; install {paper.name} again.") from error
    document = read_yaml_mapping(text, where)
    try:
        claims = ClaimsFile.model_validate(document)
    except ValidationError as error:
        raise InputFileError(validation_sentence(error, ClaimsFile, where)) from error
    if claims.paper != paper.name:
        raise InputFileError(f"{where}: 'paper' is {claims.paper!r}; expected {paper.name!r}.")
    return claims
