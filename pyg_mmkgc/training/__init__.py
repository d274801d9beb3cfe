r"""The training loop."""
from pyg_mmkgc.training.trainer import TrainConfig, Trainer, TrainResult

__all__ = classes = ['TrainConfig', 'TrainResult', 'Trainer']
