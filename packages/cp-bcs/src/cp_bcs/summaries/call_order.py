"""The order in which a binary's functions are summarised: those that are called before those that call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components


def bottom_up(calls: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Levels of the call graph: what a function calls lies in an earlier level, or calls it back.

    Args:
        calls: function -> the functions it calls; those that are no keys are left out.

    Returns:
        The functions of each level in their given order, each once. Functions that call each other, directly or not
        (a strongly connected component), stand in one level.
    """
    order = {function: number for number, function in enumerate(calls)}
    pairs = [(order[a], order[b]) for a, called in calls.items() for b in dict.fromkeys(called) if b in order]
    if not pairs:
        return [list(calls)] if calls else []
    rows, columns = np.array(pairs).T
    graph = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(order), len(order)))
    count, home = connected_components(graph, connection="strong")
    callees: list[set[int]] = [set() for _ in range(count)]
    callers: list[set[int]] = [set() for _ in range(count)]
    for a, b in zip(home[rows].tolist(), home[columns].tolist(), strict=True):
        if a != b:
            callees[a].add(b)
            callers[b].add(a)
    level = [0] * count
    missing = [len(each) for each in callees]
    ready = [component for component in range(count) if not missing[component]]
    while ready:
        component = ready.pop()
        for caller in callers[component]:
            level[caller] = max(level[caller], level[component] + 1)
            missing[caller] -= 1
            if not missing[caller]:
                ready.append(caller)
    levels: list[list[int]] = [[] for _ in range(max(level) + 1)]
    for function, number in order.items():
        levels[level[home[number]]].append(function)
    return levels
