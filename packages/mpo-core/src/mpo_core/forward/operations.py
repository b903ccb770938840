"""Which products and copies the parts of a forward and backward pass consist of.

Pure counting, without tensors: `mpo_core.forward.applying` carries out exactly these operations, and
`mpo_core.forward.cost` adds them up to choose among plans. In training every product ``C = A B`` is followed by two,
``dC B^T`` and ``A^T dC``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from mpo_core.forward.machine import Copy, Machine, Operation, Product
from mpo_core.operators.contraction import Tree, best_split, contraction_tree, core_sizes
from mpo_core.shapes import MPOShape

Direction = Literal["left", "right"]

MANY_TOKENS = 2048
"""From so many tokens on, one product with a whole matrix is faster than one with each of its blocks."""
NARROW = 16
"""Below so many rows a matrix is better multiplied as the left operand, transposed, than as the right one."""


@dataclass(frozen=True)
class Layout:
    """Sizes of an operator: its factors and its bonds."""

    shape: MPOShape
    bonds: tuple[int, ...]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """All bonds ``d_0 .. d_n``."""
        return (1, *self.bonds, 1)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The products ``i_k j_k``."""
        return core_sizes(self.shape)

    @cached_property
    def padded(self) -> int:
        """Numbers in the padded matrix."""
        return self.shape.padded_rows * self.shape.padded_cols

    def rows(self, start: int, stop: int) -> int:
        """Product of the row factors of some cores."""
        return math.prod(self.shape.row_factors[start:stop])

    def cols(self, start: int, stop: int) -> int:
        """Product of the column factors of some cores."""
        return math.prod(self.shape.col_factors[start:stop])


class Step(NamedTuple):
    """One stretch of cores that the tokens meet, as the matrix ``(rows, inner)``.

    The state before it is a batch of matrices ``(inner, cols)``, the state after it one of matrices ``(rows, cols)``;
    batch and columns are the digits that are done, or not yet begun. Tokens come first, so that each has a batch of
    its own, or last, so that each has columns of its own.

    Attributes:
        start: first core.
        stop: one behind the last core.
        rows: rows of the stretch's matrix.
        inner: its columns.
        batch: matrices of the state; for each token, if tokens come first.
        cols: columns of each of them; for each token, if tokens come last.
        tokens_last: whether they do.
        swap: all matrices of the state are put side by side and multiplied at once, which takes two copies.
        swap_back: the same on the way back, for the gradient of the state.
    """

    start: int
    stop: int
    rows: int
    inner: int
    batch: int
    cols: int
    tokens_last: bool = False
    swap: bool = False
    swap_back: bool = False

    @property
    def matrix_right(self) -> bool:
        """Whether states have a single column, so that one product ``state @ matrix`` does it."""
        return self.cols == 1 and not self.tokens_last

    def sizes(self, tokens: int) -> tuple[int, int]:
        """Batch and columns of the state of so many tokens."""
        return (self.batch, self.cols * tokens) if self.tokens_last else (self.batch * tokens, self.cols)


class Way(NamedTuple):
    """How tokens meet stretches.

    Attributes:
        direction: from which side.
        tokens_last: see `Step`; takes a transposed copy of ``x`` and of the result.
    """

    direction: Direction
    tokens_last: bool


WAYS = [Way("left", False), Way("right", False), Way("left", True), Way("right", True)]


def step_of(layout: Layout, start: int, stop: int, way: Way, tokens: int, machine: Machine) -> Step:
    """The step of a stretch, with the faster way to multiply its states for so many tokens."""
    left, right = layout.ends[start], layout.ends[stop]
    rows, cols, n = layout.rows(start, stop), layout.cols(start, stop), layout.shape.n
    if way.direction == "right":
        sizes = left * rows, cols * right, layout.cols(0, start), layout.rows(stop, n)
    else:
        sizes = rows * right, left * cols, layout.rows(0, start), layout.cols(stop, n)
    step = Step(start, stop, *sizes, way.tokens_last)
    if step.matrix_right or step.sizes(tokens)[0] == 1:
        return step
    forth = [machine.seconds(forward_operations(step._replace(swap=swap), tokens)) for swap in (False, True)]
    back = [machine.seconds(backward_operations(step._replace(swap_back=swap), tokens)) for swap in (False, True)]
    return step._replace(swap=forth[1] < forth[0], swap_back=back[1] < back[0])


def forward_operations(step: Step, tokens: int) -> list[Operation]:
    """Of one step."""
    rows, inner, (batch, cols) = step.rows, step.inner, step.sizes(tokens)
    if step.matrix_right:
        return [Product(1, rows, inner, batch) if rows < NARROW else Product(1, batch, inner, rows)]
    if step.swap and batch > 1:
        product = Product(1, rows, inner, batch * cols)
        return [Copy(batch * inner * cols, cols), product, Copy(batch * rows * cols, cols)]
    return [Product(batch, rows, inner, cols)]


def backward_operations(step: Step, tokens: int, state_gradient: bool = True) -> list[Operation]:
    """Of one step: for the gradient of its matrix and, if asked for, of its state."""
    rows, inner, (batch, cols) = step.rows, step.inner, step.sizes(tokens)
    found: list[Operation] = []
    if batch > 1 and not step.matrix_right:
        found += [Copy(batch * rows * cols, cols), Copy(batch * inner * cols, cols)]
    found.append(Product(1, rows, batch * cols, inner))
    if not state_gradient:
        return found
    if step.matrix_right:
        found.append(Product(1, batch, rows, inner))
    elif step.swap_back and batch > 1:
        found += [Product(1, inner, rows, batch * cols), Copy(batch * inner * cols, cols)]
    else:
        found.append(Product(batch, inner, rows, cols))
    return found


def transposing(layout: Layout, way: Way, tokens: int, training: bool, state_gradient: bool) -> list[Operation]:
    """The copies that bring tokens last, and back."""
    if not way.tokens_last:
        return []
    given, result = (Copy(tokens * size, 1) for size in (layout.shape.padded_cols, layout.shape.padded_rows))
    back = [given, result, *([given] if state_gradient else [])] if training else []
    return [given, result, *back]


class Recipe(NamedTuple):
    """How the matrix of a stretch is made from its cores.

    The matrix is ``(rows, inner)`` of the step, to be multiplied from the left, or where `Step.matrix_right` holds
    ``(inner, rows)``, to be multiplied from the right.

    Attributes:
        products: each as (first operand, second operand, rows, inner, cols); operands are numbered, the cores first,
            then the products in order.
        digits: the last product as a tensor with an axis for every bond and digit; empty for a single core.
        order: the order its axes are put in; empty where it stays.
        size: of the matrix made of that.
        transposed: whether the transpose of this matrix is meant.
    """

    products: tuple[tuple[int, int, int, int, int], ...]
    digits: tuple[int, ...]
    order: tuple[int, ...]
    size: tuple[int, int]
    transposed: bool


def recipe_of(layout: Layout, step: Step, direction: Direction) -> Recipe:
    """How the matrix of a step is made, with at most one copy and one transposed view."""
    start, stop, n = step.start, step.stop, step.stop - step.start
    products: list[tuple[int, int, int, int, int]] = []
    digits: tuple[int, ...] = ()
    if n > 1:
        tree = contraction_tree(layout.sizes[start:stop], layout.ends[start : stop + 1])[1]
        _number_products(layout, tree, start, n, products)
        factors = zip(layout.shape.row_factors[start:stop], layout.shape.col_factors[start:stop], strict=True)
        digits = (layout.ends[start], *(size for pair in factors for size in pair), layout.ends[stop])
    rows, cols, last = range(1, 2 * n, 2), range(2, 2 * n + 1, 2), 2 * n + 1
    if direction == "right":
        order = (0, *rows, *cols, last) if n > 1 else ()
        return Recipe(tuple(products), digits, order, (step.rows, step.inner), step.matrix_right)
    if step.matrix_right and step.rows < NARROW:
        return Recipe(tuple(products), digits, (*rows, last, 0, *cols), (step.rows, step.inner), True)
    # This way round the last axis of the cores stays together, which makes the copy several times as fast.
    return Recipe(tuple(products), digits, (0, *cols, *rows, last), (step.inner, step.rows), not step.matrix_right)


def _number_products(
    layout: Layout, tree: Tree, start: int, n: int, products: list[tuple[int, int, int, int, int]]
) -> int:
    """Append the products of a tree in the order they are made; returns the number of its result."""
    if isinstance(tree, int):
        return tree
    first, second = (_number_products(layout, branch, start, n, products) for branch in tree)
    low, middle, high = (start + core for core in (_span(tree)[0], _span(tree[0])[1], _span(tree)[1]))
    ends, sizes = layout.ends, layout.sizes
    left, right = math.prod(sizes[low:middle]), math.prod(sizes[middle:high])
    products.append((first, second, ends[low] * left, ends[middle], right * ends[high]))
    return n + len(products) - 1


def _span(tree: Tree) -> tuple[int, int]:
    """First core of a tree, and one behind its last."""
    return (tree, tree + 1) if isinstance(tree, int) else (_span(tree[0])[0], _span(tree[1])[1])


class Merging(NamedTuple):
    """What it costs to multiply neighbouring cores to one stretch.

    Attributes:
        forward: the operations.
        backward: those for the gradients of all its cores.
        kept: numbers that are kept for the backward pass, besides the cores: products on the way, and the result
            where that is no view of a core.
    """

    forward: list[Operation]
    backward: list[Operation]
    kept: int


_VIEWS = Copy(0, 1)
"""Stands for what views and autograd take around an operation on cores: about one more call."""


def merging(layout: Layout, start: int, stop: int, direction: Direction = "right") -> Merging:
    """How the matrix of a stretch comes about; from the left, even a single core is copied."""
    ends, sizes = layout.ends, layout.sizes
    tree = contraction_tree(sizes[start:stop], ends[start : stop + 1])[1]
    numbered: list[tuple[int, int, int, int, int]] = []
    _number_products(layout, tree, start, stop - start, numbered)
    products = [Product(1, rows, inner, cols) for _, _, rows, inner, cols in numbered]
    kept = sum(product.rows * product.cols for product in products[:-1])
    forward: list[Operation] = [*products]
    backward: list[Operation] = []
    for one in products:
        backward += [*_gradients(one), _VIEWS]
    if stop - start > 1 or direction == "left":
        numbers = ends[start] * math.prod(sizes[start:stop]) * ends[stop]
        run = ends[stop] * (layout.shape.col_factors[stop - 1] if direction == "right" else 1)
        forward += [Copy(numbers, run), _VIEWS]
        backward += [Copy(numbers, run), _VIEWS]
        kept += numbers
    return Merging(forward, backward, kept)


def _gradients(product: Product) -> tuple[Product, Product]:
    batch, rows, inner, cols = product
    return Product(batch, rows, cols, inner), Product(batch, inner, rows, cols)


class Rebuilding(NamedTuple):
    """Multiplying all cores to ``W``, and the tokens with it.

    Attributes:
        join: the last product of two halves, without the halves.
        forward: all operations of the forward pass.
        backward: those of the backward pass, if ``W`` is kept.
        kept: numbers kept for the backward pass besides x, cores and ``W``: the halves.
    """

    join: list[Operation]
    forward: list[Operation]
    backward: list[Operation]
    kept: int


def rebuilding(layout: Layout, tokens: int, state_gradient: bool = True) -> Rebuilding:
    """The operations of a rebuild."""
    shape = layout.shape
    apply = Product(1, tokens, shape.cols, shape.rows)
    back: list[Operation] = [Product(1, shape.rows, tokens, shape.cols)]
    if state_gradient:
        back.append(Product(1, tokens, shape.rows, shape.cols))
    if shape.n == 1:
        return Rebuilding([], [apply], back, 0)
    split = best_split(shape, layout.bonds)
    halves = merging(layout, 0, split), merging(layout, split, shape.n)
    product = Product(1, math.prod(layout.sizes[:split]), layout.ends[split], math.prod(layout.sizes[split:]))
    swap = Copy(layout.padded, layout.cols(split, shape.n))
    forward = [*halves[0].forward, *halves[1].forward, product, swap, apply]
    backward = [*back, swap, *_gradients(product), *halves[0].backward, *halves[1].backward]
    return Rebuilding([product, swap], forward, backward, halves[0].kept + halves[1].kept)


def linear_operations(shape: MPOShape, tokens: int, training: bool, state_gradient: bool = True) -> list[Operation]:
    """Those of `nn.Linear`."""
    found: list[Operation] = [Product(1, tokens, shape.cols, shape.rows)]
    if training:
        found.append(Product(1, shape.rows, tokens, shape.cols))
        if state_gradient:
            found.append(Product(1, tokens, shape.rows, shape.cols))
    return found


def total_flops(operations: Sequence[Operation]) -> int:
    """Floating-point operations of a pass."""
    return sum(operation.flops for operation in operations if isinstance(operation, Product))
