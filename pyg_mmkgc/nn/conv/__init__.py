r"""Message passing layers."""
from pyg_mmkgc.nn.conv.mocme_conv import EncodedEntities, MoCMEConv

__all__ = classes = ['EncodedEntities', 'MoCMEConv']
