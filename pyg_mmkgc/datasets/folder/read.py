r"""The graph that lies in a folder."""
from pathlib import Path

from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import build_data
from pyg_mmkgc.datasets.folder.attributes import add_attributes
from pyg_mmkgc.datasets.folder.config import FolderConfig
from pyg_mmkgc.datasets.folder.features import add_features
from pyg_mmkgc.datasets.folder.triples import read_graph


def read_folder(folder: Path, config: FolderConfig) -> HeteroData:
    r"""The graph of a folder with the features that lie there, and nothing encoded."""
    graph = read_graph(folder, config)
    data = build_data(graph.splits, graph.entities, graph.relations)
    add_attributes(data, folder, graph, config)
    add_features(data, folder, graph, config)
    data.candidates = config.candidates
    return data
