"""One graph attention layer on two libraries: torch-geometric, the default, and dgl; one state dict for both.

dgl 1.1.3 is the last release that runs with today's torch (Python 3.11). It imports `setuptools.extern.packaging`,
which setuptools removed; `packaging` is registered under that name before dgl is imported, and only then. dgl is no
longer developed; it is kept for parity with networks that were built on it.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mpo_core.errors import MissingPartError, UsageError

NEGATIVE_SLOPE = 0.2


def graph_attention(d_in: int, d_out: int, backend: str, edge_types: int = 0) -> nn.Module:
    """A graph attention layer of one head (Velickovic et al., 2018): called with (states, edges, types).

    Args:
        d_in: dimension of the nodes' states.
        d_out: dimension of the new ones.
        backend: ``pyg`` or ``dgl``.
        edge_types: how many types edges have; 0: types are not looked at.

    Raises:
        MissingPartError: dgl is wanted and not there.
        UsageError: types are wanted on dgl, whose graph attention has none.
    """
    if backend == "pyg":
        return PyGAttention(d_in, d_out, edge_types)
    if edge_types:
        raise UsageError("graph_backend: dgl has no edge types in its graph attention; take pyg, or edge_types: false.")
    return DglAttention(d_in, d_out)


class PyGAttention(nn.Module):
    """On torch-geometric's ``GATConv``.

    Args:
        d_in: dimension of the nodes' states.
        d_out: dimension of the new ones.
        edge_types: how many types edges have, or 0.
    """

    def __init__(self, d_in: int, d_out: int, edge_types: int = 0) -> None:
        super().__init__()
        from torch_geometric.nn import GATConv

        self.types = nn.Embedding(edge_types, d_out) if edge_types else None
        wide: dict[str, Any] = {"edge_dim": d_out} if edge_types else {}
        self.convolution = GATConv(d_in, d_out, heads=1, negative_slope=NEGATIVE_SLOPE, **wide)

    def forward(self, states: Tensor, edges: Tensor, types: Tensor) -> Tensor:
        """New states of the nodes, each of which also sees itself.

        Args:
            states: (nodes, d_in).
            edges: (2, edges), from and to; none from a node to itself.
            types: (edges,).
        """
        if self.types is None:
            return self.convolution(states, edges)
        return self.convolution(states, edges, edge_attr=self.types(types))


class DglAttention(nn.Module):
    """On dgl's ``GATConv``; parameters have the names and shapes of `PyGAttention`.

    Args:
        d_in: dimension of the nodes' states.
        d_out: dimension of the new ones.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        dgl = load_dgl()
        inner = PyGAttention(d_in, d_out)
        self.convolution = inner.convolution  # holds the parameters; dgl computes with them
        self._computing = (dgl, dgl.nn.GATConv(d_in, d_out, num_heads=1, negative_slope=NEGATIVE_SLOPE))

    def forward(self, states: Tensor, edges: Tensor, types: Tensor) -> Tensor:
        """As `PyGAttention`."""
        dgl, layer = self._computing
        graph = dgl.add_self_loop(dgl.graph((edges[0], edges[1]), num_nodes=len(states)))
        held: Any = self.convolution
        parameters = {
            "fc.weight": held.lin.weight,
            "attn_l": held.att_src,
            "attn_r": held.att_dst,
            "bias": held.bias,
        }
        return torch.func.functional_call(layer, parameters, (graph, states)).squeeze(1)


@cache
def load_dgl() -> Any:
    """Import dgl.

    Raises:
        MissingPartError: it is not there, or not in a release that runs here.
    """
    name = "setuptools.extern.packaging"
    try:
        packaging = importlib.import_module("packaging")
        importlib.import_module("packaging.version")
        if name not in sys.modules:
            extern = types.ModuleType("setuptools.extern")
            extern.__dict__["packaging"] = packaging
            sys.modules.setdefault("setuptools.extern", extern)
            sys.modules[name] = packaging
        os.environ.setdefault("DGLBACKEND", "pytorch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, of an older Python
            return importlib.import_module("dgl")
    except (ImportError, OSError) as error:
        raise MissingPartError(
            f"graph_backend: dgl needs dgl 1.1.3, which runs on Python 3.11 ({error}); install the extra cp-bcs[dgl], "
            "or take pyg."
        ) from error
