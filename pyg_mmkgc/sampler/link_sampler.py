r"""A sampler of links in plain torch, for PyG's :class:`~torch_geometric.loader.LinkLoader`."""
from typing import Any, Dict, Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
    SamplerOutput,
)
from torch_geometric.sampler.neighbor_sampler import edge_sample, node_sample


class EntityLinkSampler(BaseSampler):
    r"""The subgraph around a mini-batch of links, without pyg-lib and without torch-sparse.

    PyG's :class:`~torch_geometric.loader.LinkNeighborLoader` needs one of these packages. This
    sampler gives :class:`~torch_geometric.loader.LinkLoader` what it needs in plain torch, for
    graphs with one kind of nodes and one kind of edges, as knowledge graphs are here:

    .. code-block:: python

        loader = LinkLoader(data, link_sampler=EntityLinkSampler(data, num_hops=1),
                            edge_label_index=EDGE, neg_sampling=EGNS(data.num_nodes), ...)

    The batch holds the ends of all links, the negatives, and every entity at most
    :obj:`num_hops` edges upstream of these, with *all* edges among them (also those that are the
    links of the batch themselves). Nothing is dropped by chance; one batch costs :math:`O(N + E)`.
    The relation of a link is :obj:`data[EDGE].edge_type[batch[EDGE].input_id]`.

    Args:
        data (Data or HeteroData): The graph.
        num_hops (int, optional): How far to follow edges against their direction.
            (default: :obj:`0`)

    Raises:
        ValueError: If the graph has several node types or edge types, or :obj:`num_hops` is
            negative.
    """
    def __init__(self, data: Union[Data, HeteroData], num_hops: int = 0):
        if num_hops < 0:
            raise ValueError(f"'num_hops' must not be negative (got {num_hops})")
        self.edge_type = None
        store = data
        if isinstance(data, HeteroData):
            if len(data.node_types) != 1 or len(data.edge_types) != 1:
                raise ValueError(f'{self.__class__.__name__} needs one node type and one edge type '
                                 f'(got {data.node_types} and {data.edge_types})')
            self.edge_type = data.edge_types[0]
            store = data[self.edge_type]
        self.num_hops = num_hops
        self.num_nodes = data.num_nodes
        self.row, self.col = store.edge_index.cpu()  # [E], [E]

    def sample_from_nodes(self, index: NodeSamplerInput,
                          **kwargs: Any) -> Union[SamplerOutput, HeteroSamplerOutput]:
        r"""The subgraph around nodes."""
        _check_time(index.time)
        return node_sample(index, self._sample)

    def sample_from_edges(
        self,
        index: EdgeSamplerInput,
        neg_sampling: Optional[NegativeSampling] = None,
    ) -> Union[SamplerOutput, HeteroSamplerOutput]:
        r"""The subgraph around links and their negatives."""
        _check_time(index.time)
        # PyG's own function draws the negatives and writes the metadata that its loader reads.
        return edge_sample(index, self._sample, self.num_nodes, disjoint=False,
                           neg_sampling=neg_sampling)

    def _sample(self, seed: Union[Tensor, Dict[str, Tensor]],
                seed_time: None) -> Union[SamplerOutput, HeteroSamplerOutput]:
        if isinstance(seed, Tensor):
            return SamplerOutput(*self._subgraph(seed))
        (node_type, seed_of_type), = seed.items()
        node, row, col, edge = self._subgraph(seed_of_type)
        return HeteroSamplerOutput({node_type: node}, {self.edge_type: row}, {self.edge_type: col},
                                   {self.edge_type: edge})

    def _subgraph(self, seed: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Nodes (seeds first, in their order), local rows and columns, and edge ids."""
        inside = torch.zeros(self.num_nodes, dtype=torch.bool)
        inside[seed] = True
        for _ in range(self.num_hops):
            reached = self.row[inside[self.col]]
            inside[reached] = True
        edge = (inside[self.row] & inside[self.col]).nonzero().view(-1)
        inside[seed] = False
        node = torch.cat([seed, inside.nonzero().view(-1)])
        local = torch.empty(self.num_nodes, dtype=torch.long)
        local[node] = torch.arange(node.numel())
        return node, local[self.row[edge]], local[self.col[edge]], edge

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_nodes}, num_edges={self.row.numel()}, '
                f'num_hops={self.num_hops})')


def _check_time(time: Optional[Tensor]) -> None:
    if time is not None:
        raise ValueError("'EntityLinkSampler' knows no time (got seeds with timestamps)")
