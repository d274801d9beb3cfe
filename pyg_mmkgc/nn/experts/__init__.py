r"""Experts: several views of one modality."""
from pyg_mmkgc.nn.experts.modality_experts import ModalityExperts

__all__ = classes = ['ModalityExperts']
