r"""Fusion of views into one joint view."""
from pyg_mmkgc.nn.fusion.cmkf import CMKF, EntityViews

__all__ = classes = ['CMKF', 'EntityViews']
