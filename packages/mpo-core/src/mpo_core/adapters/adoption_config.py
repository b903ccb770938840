"""What a model in MPO form should look like: which layers, which bonds, what trains. Plain values, JSON in and out.

Names of modules are given as patterns. A pattern with a wildcard (``*``, ``?``, ``[``) is that of `fnmatch` on the
whole dotted name, where ``*`` matches dots, too. A pattern without one is a bare name, as PEFT's users write it:
``q_proj`` means every module that is called ``q_proj``, however deep, and everything inside it; more components
(``layer.0.attention``) have to stand at the end of its name.
"""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from operator import index
from typing import Any, Literal, cast, get_args

from mpo_core.errors import BondError, UsageError
from mpo_core.shapes import is_whole

Bonds = int | Sequence[int]
TrainedCores = Literal["auxiliary", "central", "all"]
TrainedBiases = Literal["none", "all", "mpo_only"]
Allocation = Literal["global", "per-matrix", "uniform"]
CoreGauge = Literal["symmetric", "mixed", "left", "right", "central", "identity"]
ForwardStrategy = Literal["auto", "rebuild", "chain", "mixed"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "train": get_args(TrainedCores),
    "bias": get_args(TrainedBiases),
    "allocation": get_args(Allocation),
    "gauge": (None, *get_args(CoreGauge)),
    "strategy": get_args(ForwardStrategy),
}


@dataclass(frozen=True)
class MPOConfig:
    """How `mpo_core.get_mpo_model` changes a model.

    Attributes:
        target_modules: patterns (see `mpo_core.adapters.adoption_config`) of the linear, Conv1D and embedding layers to
            put into MPO form; every pattern has to fit one.
        exclude_modules: patterns of modules whose layers stay dense. Exclusion wins, and reaches over ties: no layer
            that shares a weight with an excluded one is decomposed.
        n: number of core tensors.
        bonds: cap of all bonds, or one cap for each of the ``n - 1``; ``None`` keeps full bonds, which is exact.
        bond_pattern: pattern -> `bonds` of the layers it fits, whatever else says; the first that fits counts.
        ratio: instead of `bonds`, the share of its dense parameters that a matrix may have in MPO form.
        tolerance: instead of `bonds`, the relative Frobenius error that a matrix may have.
        allocation: what `ratio` is about: ``global`` (all matrices together, shared out where it costs least),
            ``per-matrix`` (each one, bond by bond), ``uniform`` (each one, one cap for all its bonds).
        gauge: which representative of the matrix the cores are (`mpo_core.operators.gauge`); ``None`` takes
            ``identity`` at full bonds (one core is the permuted weight, the others identities: exact, free, and not
            saved while frozen) and ``symmetric`` where bonds are cut.
        train: which cores train: ``auxiliary`` is lightweight fine-tuning (Liu et al. 2021, section 4.1).
        modules_to_save: patterns of dense modules that are trained and saved in full, say a new classifier head.
        bias: which biases train besides: ``none``, those of the layers in MPO form (``mpo_only``), or ``all``.
        strategy: how the layers compute their product, see `mpo_core.MPOLinear`; embeddings look rows up for ``chain``
            and ``mixed``.
        cache: whether they keep the rebuilt weight in evaluation, likewise.
        min_size: layers with a side of the matrix below this stay dense.

    Raises:
        UsageError: A value of a wrong type or out of range, or two limits at once.
        BondError: A bond that is no positive integer, or not ``n - 1`` of them.

    Example:
        >>> MPOConfig(target_modules=["q_proj", "*.mlp.*"], bonds=64).exclude_modules
        ()
    """

    target_modules: str | Sequence[str] = "*"
    exclude_modules: str | Sequence[str] = ()
    n: int = 5
    bonds: Bonds | None = None
    bond_pattern: Mapping[str, Bonds] = field(default_factory=dict[str, Bonds])
    ratio: float | None = None
    tolerance: float | None = None
    allocation: Allocation = "global"
    gauge: CoreGauge | None = None
    train: TrainedCores = "auxiliary"
    modules_to_save: str | Sequence[str] = ()
    bias: TrainedBiases = "none"
    strategy: ForwardStrategy = "auto"
    cache: bool = False
    min_size: int = 2

    def __post_init__(self) -> None:
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        if not self.target_modules:
            raise UsageError("MPOConfig: target_modules is empty; name the layers to decompose, or '*' for all.")
        for name in ("n", "min_size"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(repr(choice) for choice in allowed)
                raise UsageError(f"MPOConfig: {name} is {getattr(self, name)!r}; expected one of {words}.")
        if not isinstance(self.cache, bool):
            raise UsageError(f"MPOConfig: cache is {self.cache!r}; expected True or False.")
        object.__setattr__(self, "bonds", _bonds("bonds", self.bonds, self.n))
        object.__setattr__(self, "bond_pattern", _bond_pattern(self.bond_pattern, self.n))
        for name in ("ratio", "tolerance"):
            object.__setattr__(self, name, _limit(name, getattr(self, name)))
        limits = [name for name in ("bonds", "ratio", "tolerance") if getattr(self, name) is not None]
        if len(limits) > 1:
            raise UsageError(f"MPOConfig: {' and '.join(limits)} are given; expected at most one limit.")

    def to_dict(self) -> dict[str, Any]:
        """All values in a JSON-able form, which `from_dict` reads."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MPOConfig:
        """Read what `to_dict` wrote; what is left out has its default.

        Raises:
            UsageError: An unknown key, or a value that the class refuses.
            BondError: as the class.
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"MPOConfig.from_dict: found a {type(data).__name__}; expected a mapping.")
        known = [entry.name for entry in fields(cls)]
        for key in data:
            if key not in known:
                raise UsageError(f"MPOConfig.from_dict: unknown key {key!r}; the keys are {', '.join(known)}.")
        return cls(**data)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of `target_modules`, a single one as a tuple, too."""
        return cast("tuple[str, ...]", self.target_modules)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The patterns of `exclude_modules`."""
        return cast("tuple[str, ...]", self.exclude_modules)

    @property
    def saved(self) -> tuple[str, ...]:
        """The patterns of `modules_to_save`."""
        return cast("tuple[str, ...]", self.modules_to_save)


def name_globs(pattern: str) -> tuple[str, ...]:
    """The `fnmatch` patterns that a pattern stands for: itself, or those of a bare name.

    Example:
        >>> name_globs("*.attn.*"), name_globs("q_proj")
        (('*.attn.*',), ('q_proj', '*.q_proj', 'q_proj.*', '*.q_proj.*'))
    """
    if any(wildcard in pattern for wildcard in "*?["):
        return (pattern,)
    return (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")


def fits_any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether any of the names of a module fits any of the patterns."""
    globs = [glob for pattern in patterns for glob in name_globs(pattern)]
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def _patterns(name: str, given: Any) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else given
    if not isinstance(patterns, Iterable) or isinstance(patterns, Mapping) or hasattr(given, "dtype"):
        raise UsageError(f"MPOConfig: {name} is {given!r}; expected a name pattern or a list of them.")
    found = tuple(cast("Iterable[Any]", patterns))
    for pattern in found:
        if not isinstance(pattern, str) or not pattern:
            raise UsageError(f"MPOConfig: {name} holds {pattern!r}; expected name patterns.")
    return found


def _count(name: str, value: Any) -> int:
    if not is_whole(value) or index(value) < 1:
        raise UsageError(f"MPOConfig: {name} is {value!r}; expected a positive integer.")
    return index(value)


def _bonds(name: str, value: Any, n: int) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    several = isinstance(value, Sequence) and not isinstance(value, str)
    caps: list[Any] = list(cast("Sequence[Any]", value)) if several else [value]
    for cap in caps:
        if not is_whole(cap) or index(cap) < 1:
            raise BondError(f"MPOConfig: {name} is {value!r}; expected a positive integer or {n - 1} of them.")
    if not several:
        return index(caps[0])
    if len(caps) != n - 1:
        raise BondError(f"MPOConfig: {name} has {len(caps)} entries; expected {n - 1} for n = {n} cores.")
    return tuple(index(cap) for cap in caps)


def _bond_pattern(given: Any, n: int) -> dict[str, Bonds]:
    if not isinstance(given, Mapping):
        raise UsageError(f"MPOConfig: bond_pattern is {given!r}; expected a mapping from name pattern to bonds.")
    found: dict[str, Bonds] = {}
    for pattern, value in cast("Mapping[Any, Any]", given).items():
        _patterns("bond_pattern", [pattern])
        bonds = _bonds(f"bond_pattern[{pattern!r}]", value, n)
        if bonds is None:
            raise BondError(f"MPOConfig: bond_pattern[{pattern!r}] is None; expected a positive integer or a list.")
        found[pattern] = bonds
    return found


def _limit(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not number or value < 0 or (name == "ratio" and value == 0):
        least = "above 0" if name == "ratio" else "of at least 0"
        raise UsageError(f"MPOConfig: {name} is {value!r}; expected a finite number {least}.")
    return float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(cast("tuple[Any, ...]", value))
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in cast("dict[str, Any]", value).items()}
    return value
