r"""From a recipe and a graph to a trained model, on whatever triples there are to choose by."""
import logging
from dataclasses import replace
from typing import Any, Callable, Dict, Optional

from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import get_triples, hold_out, is_spent, split_names
from pyg_mmkgc.nn import KGModel
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

    Attributes:
        model (KGModel): The model; after training the one with its best weights.
    """
    def __init__(self, recipe: Recipe, data: HeteroData, log: bool = False,
                 on_epoch: Optional[Callable[[Dict[str, Any]], None]] = None):
        self.recipe, self.data, self.log, self.on_epoch = recipe, data, log, on_epoch
        self.model = self._build(data)

    def __call__(self) -> TrainResult:
        r"""Trains the model.

        Returns:
            TrainResult: Of the model on all of train, with the chosen epoch's MRR on the held-out
            part if there was one; its epochs count from one again.
        """
        config = self.recipe.train_config()
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
        self.model = self._build(held)
        choice = self._train(held, config, choosing=True)
        if choice.interrupted:
            return choice
        gates = [p.detach().clone() for p in self.model.gates()]
        self.model = self._build(self.data)
        if config.gate_split is not None:
            for p, gate in zip(self.model.gates(), gates, strict=True):
                p.data.copy_(gate)
                p.requires_grad_(False)
        epochs = choice.best_epoch if config.select in spent else config.epochs
        result = self._train(self.data, replace(config, epochs=epochs, select=None,
                                                gate_split=None))
        for p in self.model.gates():
            p.requires_grad_(True)
        return replace(result, history=choice.history + result.history, best_mrr=choice.best_mrr)

    def _build(self, data: HeteroData) -> KGModel:
        seed_everything(self.recipe.train_config().seed)  # The weights are drawn next.
        return self.recipe.build(data)

    def _train(self, data: HeteroData, config: TrainConfig, choosing: bool = False) -> TrainResult:
        def on_epoch(entry: Dict[str, Any]) -> None:
            if choosing:
                entry['choosing'] = True
            if self.on_epoch is not None:
                self.on_epoch(entry)

        return Trainer(config, self.log, on_epoch).fit(self.model, data)
