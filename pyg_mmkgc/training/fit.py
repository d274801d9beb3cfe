r"""From a recipe and a graph to a trained model, on whatever triples there are to choose by."""
import logging
from dataclasses import asdict, replace
from typing import Any, Callable, Dict, List, Optional

from torch import Tensor
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import get_triples, hold_out, is_spent, split_names
from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.evaluation.memory import explain_out_of_memory
from pyg_mmkgc.nn import KGModel
from pyg_mmkgc.training.checkpoint import Checkpoints
from pyg_mmkgc.training.distributed import launch
from pyg_mmkgc.training.recipe import Recipe
from pyg_mmkgc.training.trainer import TrainConfig, Trainer, TrainResult

logger = logging.getLogger(__name__)


class Fit:
    r"""Builds a model by its recipe and trains it.

    A validation split that stands mostly in train (:func:`~pyg_mmkgc.data.is_spent`, DB15K's and
    TIVA's official ones) would choose the epoch that remembers most. Where the recipe wants to
    learn from such a split, a seeded part of train (:obj:`TrainConfig.held_out`) takes its place:
    a first model is trained without that part, which chooses the number of epochs and the weights
    of modalities; then a second one is trained on all of train for that many epochs, with these
    weights as they are.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        log (bool, optional): Whether to show progress bars. (default: :obj:`False`)
        on_epoch (Callable, optional): Called with each entry of the history as it is made; those
            of the first model have ``'choosing'`` set. (default: :obj:`None`)
        profile (str or os.PathLike, optional): Where to write a profile of the first steps of the
            last model, see :class:`Trainer`. (default: :obj:`None`)
        checkpoints (Checkpoints, optional): Where the state of the training is kept; it goes on
            from what is found there. (default: nowhere)

    Attributes:
        model (KGModel): The model; after training the one with its best weights.
        kept (bool): Whether the model has had best weights so far, which it has after an error.
    """
    def __init__(self, recipe: Recipe, data: HeteroData, log: bool = False,
                 on_epoch: Optional[Callable[[Dict[str, Any]], None]] = None,
                 profile: Optional[PathLike] = None, checkpoints: Optional[Checkpoints] = None):
        self.recipe, self.data, self.log, self.on_epoch = recipe, data, log, on_epoch
        self.profile = profile
        self.checkpoints = Checkpoints() if checkpoints is None else checkpoints
        self.kept = False
        self.choice: Optional[TrainResult] = None
        self.gates: List[Tensor] = []
        self.model = self._build(data)

    def __call__(self) -> TrainResult:
        r"""Trains the model.

        Returns:
            TrainResult: Of the model on all of train, with the chosen epoch's MRR on the held-out
            part if there was one; its epochs count from one again.

        Raises:
            MemoryError: If memory does not suffice; the message says what to lower, and the model
                has its best weights so far.
        """
        config = self.recipe.train_config()
        processes = launch(config.device, config.devices, config.num_nodes, config.timeout_minutes)
        self.checkpoints.processes = processes if processes.size > 1 else None
        self.checkpoints.attach('fit', self)
        spent = [split for split in dict.fromkeys([config.select, config.gate_split])
                 if split in split_names(self.data) and is_spent(self.data, split)]
        if not spent:
            return self._train(self.data, config)
        held = hold_out(self.data, config.held_out, config.seed, splits=spent)
        logger.warning('%s stands mostly in train, so nothing is chosen on it: the number of '
                       'epochs%s chosen on %d triples held out of train, then a model is trained '
                       'on all of train', ' and '.join(map(repr, spent)),
                       '' if config.gate_split is None else ' and the weights of modalities are',
                       get_triples(held, spent[0])[0].numel())
        if self.choice is None:
            self.model = self._build(held)
            choice = self._train(held, config, choosing=True)
            if choice.interrupted:
                return choice
            self.choice, self.kept = choice, False
            self.gates = [p.detach().clone() for p in self.model.gates()]
            self.model = self._build(self.data)
        if config.gate_split is not None:
            for p, gate in zip(self.model.gates(), self.gates, strict=True):
                p.data.copy_(gate)
                p.requires_grad_(False)
        choice = self.choice
        epochs = choice.best_epoch if config.select in spent else config.epochs
        result = self._train(self.data, replace(config, epochs=epochs, select=None,
                                                gate_split=None))
        for p in self.model.gates():
            p.requires_grad_(True)
        return replace(result, history=choice.history + result.history, best_mrr=choice.best_mrr)

    def state_dict(self) -> Dict[str, Any]:
        r"""What is known beside the state of the model that is being trained."""
        return {'kept': self.kept, 'gates': self.gates,
                'choice': None if self.choice is None else asdict(self.choice)}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        r"""Restores what :meth:`state_dict` gave.

        Args:
            state (Dict[str, Any]): The state.
        """
        self.kept, self.gates = state['kept'], state['gates']
        self.choice = None if state['choice'] is None else TrainResult(**state['choice'])

    def _build(self, data: HeteroData) -> KGModel:
        seed_everything(self.recipe.train_config().seed)  # The weights are drawn next.
        with explain_out_of_memory(f'building {self.recipe.model["name"]!r}',
                                   "lower 'model.hidden_channels'"):
            return self.recipe.build(data)

    def _train(self, data: HeteroData, config: TrainConfig, choosing: bool = False) -> TrainResult:
        def on_epoch(entry: Dict[str, Any]) -> None:
            self.kept |= config.select is None or 'val_mrr' in entry
            if choosing:
                entry['choosing'] = True
            if self.on_epoch is not None:
                self.on_epoch(entry)

        with explain_out_of_memory(
                f'training {self.recipe.model["name"]!r}',
                f"lower 'train.batch_size' (now {config.batch_size}) or 'model.hidden_channels' "
                f'(now {self.model.hidden_channels})'):
            return Trainer(config, self.log, on_epoch,
                           None if choosing else self.profile,
                           self.checkpoints).fit(self.model, data)
