"""The spaces against geoopt in float64, their range in float32, and gradients where formulas have holes."""

from __future__ import annotations

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hypermr.manifold import SPACES, Lorentz, Poincare, RangeError, RangeWarning, Space, space_of
from hypermr.radial import asinh, asinhc, atanhc, sinh, sinhc, tanhc
from mpo_core.errors import UsageError

MANY = 1_000_000
HYPERBOLIC = [Lorentz(), Poincare()]
CURVATURES = [0.25, 1.0, 4.0]


def normals(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def within_range(space: Space, c: float, count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tangent vectors of all lengths that the documented range holds."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(count, 1, generator=generator) * min(space.reach, 30.0) / c**0.5
    return (lengths * torch.nn.functional.normalize(torch.randn(count, 6, generator=generator), dim=-1)).to(dtype)


@pytest.mark.parametrize("c", CURVATURES)
def test_the_hyperboloid_is_that_of_geoopt(c):
    theirs = geoopt.Lorentz(k=1 / c).double()
    ours, curvature = Lorentz(), torch.tensor(c, dtype=torch.float64)
    u, v = normals(200, 5), normals(200, 5, seed=1)
    x, y = ours.expmap0(u, curvature), ours.expmap0(v, curvature)
    ambient = [theirs.expmap0(torch.nn.functional.pad(tangent, (1, 0))) for tangent in (u, v)]
    torch.testing.assert_close(torch.cat([ours.time(x, curvature), x], -1), ambient[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.distance(x, y, curvature), theirs.dist(*ambient), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("c", CURVATURES)
def test_the_ball_is_that_of_geoopt(c):
    theirs = geoopt.PoincareBall(c=c).double()
    ours, curvature = Poincare(), torch.tensor(c, dtype=torch.float64)
    u, v = normals(200, 5) / 2, normals(200, 5, seed=1) / 2
    x, y = ours.expmap0(u, curvature), ours.expmap0(v, curvature)
    torch.testing.assert_close(x, theirs.expmap0(u / 2), rtol=1e-6, atol=1e-6)  # theirs takes half of the length
    torch.testing.assert_close(ours.distance(x, y, curvature), theirs.dist(x, y), rtol=1e-5, atol=1e-6)
    weights = torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    middle = ours.midpoint(x, weights.unsqueeze(0), curvature).squeeze(0)
    torch.testing.assert_close(middle, theirs.weighted_midpoint(x, weights), rtol=1e-6, atol=1e-6)


@given(st.sampled_from(CURVATURES), st.integers(0, 10**6))
def test_hyperboloid_and_ball_are_pictures_of_one_space(c, seed):
    curvature = torch.tensor(c, dtype=torch.float64)
    u, v = normals(7, 4, seed=seed) / 2, normals(5, 4, seed=seed + 1) / 2
    lorentz, ball = Lorentz(), Poincare()
    x, y = (lorentz.expmap0(tangent, curvature) for tangent in (u, v))
    a, b = (ball.expmap0(tangent, curvature) for tangent in (u, v))
    torch.testing.assert_close(ball.to_hyperboloid(a, curvature), x)
    torch.testing.assert_close(ball.of_hyperboloid(x, curvature), a)
    distances = lorentz.squared_distances(x, y, curvature)
    torch.testing.assert_close(distances, ball.squared_distances(a, b, curvature))
    torch.testing.assert_close(distances, lorentz.distance(x[:, None], y[None], curvature).square())
    weights = torch.rand(3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    middles = lorentz.midpoint(x, weights, curvature), ball.midpoint(a, weights, curvature)
    torch.testing.assert_close(ball.to_hyperboloid(middles[1], curvature), middles[0])


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_small_curvature_is_flat(space):
    c = torch.tensor(1e-12, dtype=torch.float64)
    u, v = normals(6, 4), normals(6, 4, seed=1)
    x, y = space.expmap0(u, c), space.expmap0(v, c)
    torch.testing.assert_close(space.distance(x, y, c), (u - v).norm(dim=-1))
    weights = torch.rand(2, 6, dtype=torch.float64)
    mean = weights @ u / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(space.logmap0(space.midpoint(x, weights, c), c), mean)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("space", HYPERBOLIC, ids=lambda space: space.name)
def test_a_million_points_within_the_range(space, c):
    curvature = torch.tensor(c)
    u = within_range(space, c, MANY)
    x = space.expmap0(u, curvature)
    space.check(x, curvature)
    back = space.logmap0(x, curvature)
    assert ((back - u).norm(dim=-1) / u.norm(dim=-1).clamp_min(1e-6)).max() <= 1e-5
    y = x.flip(0)
    assert space.distance(x, y, curvature).isfinite().all()
    assert space.distance(x, x, curvature).abs().max() == 0
    groups = x.view(-1, 100, 6)
    weights = torch.rand(len(groups), 2, 100, generator=torch.Generator().manual_seed(1))
    middles = space.midpoint(groups, weights, curvature)
    assert middles.isfinite().all()
    assert space.squared_distances(groups, middles, curvature).isfinite().all()
    assert space.move(x, curvature, torch.tensor(c / 2)).isfinite().all()
    farthest = space.logmap0(groups, curvature).norm(dim=-1).amax(-1, keepdim=True)
    assert (space.logmap0(middles, curvature).norm(dim=-1) <= farthest * (1 + 1e-4)).all()


@pytest.mark.parametrize("space", HYPERBOLIC, ids=lambda space: space.name)
def test_distances_in_float32_are_those_of_float64(space):
    """Up to a distance of 5 from the origin; of points in one direction, the hardest ones."""
    lengths = torch.linspace(0, 5, 50, dtype=torch.float64).unsqueeze(-1)
    direction = torch.nn.functional.normalize(normals(1, 6), dim=-1)
    c = torch.tensor(1.0, dtype=torch.float64)
    x = space.expmap0(lengths * direction, c)
    wanted = space.distance(x[:, None], x[None], c)
    torch.testing.assert_close(wanted, (lengths - lengths.T).abs(), rtol=1e-6, atol=1e-6)
    found = space.distance(x.float()[:, None], x.float()[None], c.float()).double()
    assert (found - wanted).abs().max() < 5e-3


@pytest.mark.parametrize(("reach", "bound"), [(5, 0.06), (6, 0.2)])
@pytest.mark.parametrize("space", HYPERBOLIC, ids=lambda space: space.name)
def test_distances_by_one_matrix_product_are_off_by_what_is_said(space, reach, bound):
    c = torch.tensor(1.0)
    worst = 0.0
    for seed in range(20):
        lengths = torch.linspace(0, reach, 60).unsqueeze(-1)
        direction = torch.nn.functional.normalize(normals(1, 6, seed=seed), dim=-1).float()
        x = space.expmap0(lengths * direction, c)
        found = space.squared_distances(x, x, c).sqrt()
        worst = max(worst, float((found - (lengths - lengths.T).abs()).abs().max()))
    assert 1e-3 < worst < bound


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-6, 1.0, 5.9])
@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_gradients_at_the_origin_at_equal_points_and_at_the_edge(space, length):
    c = torch.tensor(1.0, requires_grad=True)
    u = torch.zeros(4, 6)
    u[:, 0] = length
    u.requires_grad_()
    x = space.expmap0(u, c)
    y = x.clone()
    middle = space.midpoint(x, torch.ones(2, 4), c)
    for value in (
        x,
        space.logmap0(x, c),
        space.distance(x, y, c),
        space.squared_distance(x, y, c),
        space.squared_distances(x, y, c),
        space.logmap0(middle, c),
        space.move(x, c, torch.tensor(0.5)),
    ):
        gradients = torch.autograd.grad(value.sum(), (u, c), retain_graph=True, allow_unused=True)
        assert value.isfinite().all()
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("space", HYPERBOLIC, ids=lambda space: space.name)
def test_far_points_are_warned_of_and_refused_by_check(space):
    c = torch.tensor(1.0)
    u = torch.zeros(3, 6)
    u[:, 0] = torch.tensor([1.0, 20.0, 40.0])
    with pytest.warns(RangeWarning, match="40 units of curvature from the origin"):
        x = space.expmap0(u, c).requires_grad_()
    assert not space.squared_distances(x, x, c).isnan().any()
    if space.name == "lorentz":
        with pytest.raises(RangeError, match="40 units of curvature from the origin"):
            space.check(x, c)
    else:
        with pytest.raises(RangeError, match="poincare"):
            space.check(x, c)
    with pytest.raises(RangeError, match="not finite"):
        space.check(torch.tensor([[float("nan"), 0.0]]), c)


@pytest.mark.parametrize("space", HYPERBOLIC, ids=lambda space: space.name)
def test_derivatives_by_finite_differences(space):
    u, v = normals(3, 4) / 2, normals(3, 4, seed=1) / 2
    weights = torch.rand(2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def everything(u: Tensor, v: Tensor, c: Tensor) -> Tensor:
        x, y = space.expmap0(u, c), space.expmap0(v, c)
        middle = space.midpoint(x, weights, c)
        return torch.cat([space.squared_distances(x, y, c).flatten(), space.logmap0(middle, c).flatten()])

    arguments = [each.requires_grad_() for each in (u, v, torch.tensor(0.7, dtype=torch.float64))]
    assert torch.autograd.gradcheck(everything, arguments)


def test_one_step_on_the_hyperboloid_is_the_formula_with_its_slopes():
    """Of points with broadcast batches, and of weights that no one has normalised."""
    space, weights = Lorentz(), torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    arguments = [normals(2, 4, 6), normals(3, 6, seed=1), weights[:, :4], torch.tensor(0.7, dtype=torch.float64)]

    def formula(x: Tensor, y: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        times_x, times_y = space.time(x, c), space.time(y, c)
        chords = (x.unsqueeze(-2) - y).square().sum(-1) - (times_x - times_y.mT).square()
        mean, time = weights @ y, weights @ times_y
        middle = mean / (c * (time.square() - mean.square().sum(-1, keepdim=True))).sqrt()
        return torch.cat([(4 / c * (c * chords / 4).sqrt().asinh().square()).flatten(), middle.flatten()])

    def one_step(x: Tensor, y: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        return torch.cat([space.squared_distances(x, y, c).flatten(), space.midpoint(y, weights, c).flatten()])

    torch.testing.assert_close(one_step(*arguments), formula(*arguments))
    assert torch.autograd.gradcheck(one_step, [each.requires_grad_() for each in arguments])


@pytest.mark.parametrize(("function", "plain"), [(sinh, torch.sinh), (asinh, torch.asinh)])
def test_vectorised_functions_have_the_accuracy_of_the_type(function, plain):
    z = torch.cat([torch.zeros(1), torch.logspace(-30, 1.5, 10_000)])
    torch.testing.assert_close(function(z), plain(z.double()).float(), rtol=3e-7, atol=0)
    torch.testing.assert_close(function(z.double()), plain(z.double()), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("function", "plain"),
    [(sinhc, torch.sinh), (asinhc, torch.asinh), (tanhc, torch.tanh), (atanhc, torch.atanh)],
)
def test_series_and_function_meet(function, plain):
    z = torch.linspace(1e-4, 0.7, 4000, dtype=torch.float64)
    torch.testing.assert_close(function(z.square()), plain(z) / z, rtol=5e-14, atol=0)
    assert float(function(torch.tensor(0.0, dtype=torch.float64))) == 1.0


def test_an_unknown_geometry():
    with pytest.raises(UsageError, match="'spherical'; expected one of euclidean, lorentz, poincare"):
        space_of("spherical")
