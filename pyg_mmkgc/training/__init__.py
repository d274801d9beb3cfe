r"""The training loop, recipes, and runs with the folders that they leave."""
from pyg_mmkgc.training.calibrate import calibrate
from pyg_mmkgc.training.checkpoint import Checkpoints
from pyg_mmkgc.training.distributed import LostProcessError, Processes, launch, world
from pyg_mmkgc.training.fit import Fit
from pyg_mmkgc.training.optim import RowAdagrad, RowAdam, RowSGD
from pyg_mmkgc.training.plots import (
    plot_curves,
    plot_modality_weights,
    plot_reliability,
    relation_modality_weights,
)
from pyg_mmkgc.training.recipe import (
    MODELS,
    SAMPLERS,
    Recipe,
    class_options,
    find_recipe,
    get_recipe,
    load_recipe,
    recipe_names,
)
from pyg_mmkgc.training.run import Run, fingerprint, load_run, resume_run, train_run
from pyg_mmkgc.training.suspects import cross_predict, suspects
from pyg_mmkgc.training.trainer import TrainConfig, Trainer, TrainResult

__all__ = classes = [
    'MODELS',
    'SAMPLERS',
    'Checkpoints',
    'Fit',
    'LostProcessError',
    'Processes',
    'Recipe',
    'RowAdagrad',
    'RowAdam',
    'RowSGD',
    'Run',
    'TrainConfig',
    'TrainResult',
    'Trainer',
    'calibrate',
    'class_options',
    'cross_predict',
    'find_recipe',
    'fingerprint',
    'get_recipe',
    'launch',
    'load_recipe',
    'load_run',
    'plot_curves',
    'plot_modality_weights',
    'plot_reliability',
    'recipe_names',
    'relation_modality_weights',
    'resume_run',
    'suspects',
    'train_run',
    'world',
]
