r"""Fusion of views into one joint view."""
from pyg_mmkgc.nn.fusion.adaptive_fusion import AdaptiveFusion
from pyg_mmkgc.nn.fusion.cmkf import CMKF, EntityViews

__all__ = classes = ['CMKF', 'AdaptiveFusion', 'EntityViews']
