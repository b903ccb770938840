import torch

from mpo_core import decompose
from mpop.evaluate import bound_metrics, central_entropy_share, random_matrices


def test_random_matrices_depend_on_the_seed_alone_and_have_three_spectra():
    first, again, other = random_matrices(6, 3), random_matrices(6, 3), random_matrices(6, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [m.shape for m in first] != [m.shape for m in other] or not torch.equal(first[0], other[0])
    low_rank = torch.linalg.svdvals(first[2])
    assert low_rank[len(low_rank) // 8] < 0.05 * low_rank[0]


def test_the_bound_holds_and_the_printed_one_does_not():
    mpos = [decompose(matrix, n=5) for matrix in random_matrices(30, 0)]
    metrics = bound_metrics(mpos, 150, 0)
    assert metrics["bound_violations"].value == 0
    assert metrics["printed_bound_violations"].value > 0
    assert metrics["bound_looseness"].value >= 1
    assert metrics["bound_violations"].n == 150


def test_entropy_share_counts_operators_whose_maximum_is_central():
    matrix = torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = decompose(matrix, n=5)
    outer = full.truncate((4, 1, 1, 1))  # entangled at the first bond alone
    assert central_entropy_share([full]).value == 1
    assert central_entropy_share([full, outer]).value == 0.5
