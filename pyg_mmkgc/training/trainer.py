import copy
import logging
import math
import time
from dataclasses import dataclass, fields
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from pyg_mmkgc.data import EDGE, get_triples, split_names
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn.models import KGModel
from pyg_mmkgc.nn.models.base import Prepared
from pyg_mmkgc.sampler import TripleLoader

logger = logging.getLogger(__name__)

TABLE_OPTIMIZERS = {'adagrad': torch.optim.Adagrad, 'adam': torch.optim.Adam,
                    'sgd': torch.optim.SGD}


@dataclass
class TrainConfig:
    r"""How a model is trained.

    Tables (entity and relation vectors) and dense weights have an optimiser each: tables learn
    best with Adagrad and a large step, projections with Adam and a small one.

    Args:
        epochs (int): The largest number of passes over the training triples.
        batch_size (int): Triples per step, inverse ones counted.
        optimizer (str): The optimiser of the tables: ``'adagrad'``, ``'adam'`` or ``'sgd'``.
        lr (float): Its learning rate.
        dense_lr (float): The learning rate of Adam for everything else.
        dense_weight_decay (float): Decoupled weight decay of everything else.
        gate_split (str, optional): The split on which the weights of modalities
            (:meth:`KGModel.gates`) are learned, in alternation with all else; they then take no
            part in the training loss. None trains them with everything else.
        gate_lr (float): The learning rate of Adam for them.
        gate_steps (int): Their steps per epoch, each on up to :obj:`batch_size` triples.
        grad_clip (float, optional): The largest norm of the gradient of all parameters.
        average (float): Decay of a running mean of the weights per epoch, which is what is
            evaluated and kept; 0 for none.
        select (str, optional): The split whose MRR chooses the epoch. None keeps the last one.
        held_out (float): The share of the training triples that takes the place of
            :obj:`select` and :obj:`gate_split` where these stand mostly in train, see
            :class:`~pyg_mmkgc.training.Fit`.
        eval_every (int): Epochs between two looks at that split.
        patience (int, optional): Looks without gain after which training stops.
        seed (int): The seed of all generators.
        device (str): ``'cpu'``, ``'cuda'`` or ``'auto'``.
        precision (str): Precision as Lightning Fabric knows it, e.g. ``'bf16-mixed'``.
    """
    epochs: int = 100
    batch_size: int = 1000
    optimizer: str = 'adagrad'
    lr: float = 0.1
    dense_lr: float = 1e-3
    dense_weight_decay: float = 0.0
    gate_split: Optional[str] = None
    gate_lr: float = 0.05
    gate_steps: int = 2
    grad_clip: Optional[float] = None
    average: float = 0.0
    select: Optional[str] = 'val'
    held_out: float = 0.05
    eval_every: int = 5
    patience: Optional[int] = 10
    seed: int = 0
    device: str = 'auto'
    precision: str = '32-true'

    def __post_init__(self):
        for name in ('epochs', 'batch_size', 'eval_every', 'gate_steps'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name!r} needs to be at least 1 (got {getattr(self, name)})')
        for name in ('lr', 'dense_lr', 'gate_lr'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'{name!r} needs to be positive (got {getattr(self, name)})')
        if self.optimizer not in TABLE_OPTIMIZERS:
            raise ValueError(f"Unknown 'optimizer' {self.optimizer!r} (expected one of "
                             f'{list(TABLE_OPTIMIZERS)})')
        if not 0 <= self.average < 1:
            raise ValueError(f"'average' needs to be in [0, 1) (got {self.average})")
        if not 0 < self.held_out < 1:
            raise ValueError(f"'held_out' needs to be between 0 and 1 (got {self.held_out})")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"'patience' needs to be at least 1 (got {self.patience})")
        if self.device not in ('auto', 'cpu', 'cuda', 'mps'):
            raise ValueError(f"Unknown 'device' {self.device!r} (expected one of "
                             f"['auto', 'cpu', 'cuda', 'mps'])")

    @classmethod
    def options(cls) -> Dict[str, Any]:
        r"""All options with their defaults."""
        return {field.name: field.default for field in fields(cls)}


@dataclass
class TrainResult:
    r"""What a training run leaves behind besides the weights.

    Args:
        history (List[Dict[str, Any]]): One entry for each epoch: the parts of the loss, seconds,
            triples per second, and the MRR of the selecting split where it was looked at.
        best_epoch (int): The epoch whose weights the model now has.
        best_mrr (float, optional): Its MRR on the selecting split.
        interrupted (bool): Whether Ctrl-C ended it.
    """
    history: List[Dict[str, Any]]
    best_epoch: int
    best_mrr: Optional[float]
    interrupted: bool


class Trainer:
    r"""The one training loop: any :class:`~pyg_mmkgc.nn.KGModel`, any graph, any device.

    Devices and precision are Lightning Fabric's. Triples live on the device; a step neither
    synchronises with the host nor loops over samples. The epoch is chosen by the MRR of the
    validation split alone, and its weights are restored at the end; no other split is looked at.

    A model may train some of its parameters on a loss of their own, in alternation with the rest:
    those of :meth:`KGModel.alternating_parameters` take a step of Adam on
    :meth:`KGModel.alternating_loss` before each step of all others.

    Args:
        config (TrainConfig, optional): How to train. (default: :class:`TrainConfig()`)
        log (bool, optional): Whether to show a progress bar. (default: :obj:`False`)
        on_epoch (Callable, optional): Called with each entry of the history as it is made.
            (default: :obj:`None`)
    """
    def __init__(self, config: Optional[TrainConfig] = None, log: bool = False,
                 on_epoch: Optional[Callable[[Dict[str, Any]], None]] = None):
        self.config = TrainConfig() if config is None else config
        self.log = log
        self.on_epoch = on_epoch

    def fit(self, model: KGModel, data: HeteroData) -> TrainResult:
        r"""Train a model in place and leave it with its best weights.

        Args:
            model (KGModel): The model, built for :obj:`data`.
            data (HeteroData): The graph.

        Raises:
            ValueError: If the selecting split does not exist.
            FloatingPointError: If the loss is not finite; the model has its best weights so far.
        """
        config = self.config
        for name in ('select', 'gate_split'):
            split = getattr(config, name)
            if split is not None and split not in split_names(data):
                raise ValueError(f'{name!r} names the unknown split {split!r} (expected one of '
                                 f'{split_names(data)})')
        seed_everything(config.seed, verbose=False)
        fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)
        model.to(fabric.device)
        if model.neg_sampling is not None:
            model.neg_sampling.to(fabric.device)
        learned = any(p.requires_grad for p in model.gates())  # Else kept as they are.
        model.held_out_gates = len(model.gates()) > 0 and (config.gate_split is not None
                                                           or not learned)
        steps = _Steps(fabric, model, config)
        gates = (_Gates(fabric, model, config, self._loader(data, config.gate_split, fabric))
                 if model.held_out_gates and learned else None)
        loader = self._loader(data, 'train', fabric)
        average = _Average(model, config.average)
        best = _Best(model)
        history: List[Dict[str, Any]] = []
        interrupted = False
        bar = tqdm(total=config.epochs, desc='Training', unit='epoch', disable=not self.log)
        try:
            for epoch in range(1, config.epochs + 1):
                entry = {'epoch': epoch, **self._epoch(model, loader, steps)}
                if gates is not None:
                    entry['gate_loss'] = gates()
                average.update()
                if config.select is None:
                    with average:
                        best.keep(epoch)
                elif epoch % config.eval_every == 0 or epoch == config.epochs:
                    with average:
                        entry['val_mrr'] = evaluate(model, data, config.select).mrr
                        best.offer(entry['val_mrr'], epoch)
                history.append(entry)
                if self.on_epoch is not None:
                    self.on_epoch(entry)
                bar.update()
                bar.set_postfix(loss=f'{entry["loss"]:.4f}',
                                **({} if best.mrr is None else {'val_mrr': f'{best.mrr:.4f}'}))
                if (best.mrr is not None and config.patience is not None
                        and epoch - best.epoch >= config.patience * config.eval_every):
                    break
        except KeyboardInterrupt:
            logger.warning('Interrupted; the best weights so far are kept')
            interrupted = True
        finally:
            # First of all, since closing the bar fails where nobody reads stderr any more:
            best.restore()
            bar.close()
        model.eval()
        return TrainResult(history, best.epoch, best.mrr, interrupted)

    def _loader(self, data: HeteroData, split: str, fabric: Fabric) -> TripleLoader:
        return TripleLoader(*get_triples(data, split), self.config.batch_size,
                            num_relations=data[EDGE].num_relations, device=fabric.device,
                            generator=torch.Generator().manual_seed(self.config.seed))

    def _epoch(self, model: KGModel, loader: TripleLoader, steps: '_Steps') -> Dict[str, Any]:
        model.train()
        start = time.perf_counter()
        totals: Dict[str, Tensor] = {}
        for batch in loader:
            for name, value in steps(batch, model.prepare(*batch)).items():
                totals[name] = totals.get(name, 0) + value
        # The first look at a value of this epoch: everything before ran without waiting.
        entry: Dict[str, Any] = {name: float(value) / len(loader) for name, value in totals.items()}
        seconds = time.perf_counter() - start
        bad = [name for name, value in entry.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"the loss is not finite: {', '.join(bad)} "
                                     f'(epoch {loader.epoch}); lower the learning rates or clip '
                                     f'the gradient')
        return {**entry, 'seconds': seconds, 'triples_per_second': loader.num_triples / seconds}


class _Steps:
    r"""One optimisation step over all groups of parameters."""
    def __init__(self, fabric: Fabric, model: KGModel, config: TrainConfig):
        self.fabric, self.model, self.config = fabric, model, config
        tables, alternating = model.tables(), model.alternating_parameters()
        apart = {id(p) for p in [*alternating, *(model.gates() if model.held_out_gates else [])]}
        tables = [p for p in tables if id(p) not in apart]
        known = apart | {id(p) for p in tables}
        dense = [p for p in model.parameters() if id(p) not in known]
        self.main, self.alternating = [], None
        if tables:
            self.main.append(TABLE_OPTIMIZERS[config.optimizer](tables, lr=config.lr))
        if dense:
            self.main.append(torch.optim.AdamW(dense, lr=config.dense_lr,
                                               weight_decay=config.dense_weight_decay))
        if alternating:
            self.alternating = torch.optim.Adam(alternating, lr=config.dense_lr)

    def __call__(self, batch: Tuple[Tensor, Tensor, Tensor],
                 prepared: Prepared) -> Dict[str, Tensor]:
        if self.alternating is not None:
            self.alternating.zero_grad()
            with self.fabric.autocast():
                loss = self.model.alternating_loss()
            self.fabric.backward(loss)
            self.alternating.step()
        for optimizer in self.main:
            optimizer.zero_grad()
        parts: Dict[str, Tensor] = {}
        with self.fabric.autocast():
            loss = self.model.loss(*batch, log=parts, prepared=prepared)
        self.fabric.backward(loss)
        if self.config.grad_clip is not None:
            # Not of all parameters: what another optimiser steps may have gradients of its own.
            torch.nn.utils.clip_grad_norm_(
                [p for optimizer in self.main for group in optimizer.param_groups
                 for p in group['params']], self.config.grad_clip)
        for optimizer in self.main:
            optimizer.step()
        return {'loss': loss.detach(), **parts}


class _Gates:
    r"""The steps of the weights of modalities on held-out triples."""
    def __init__(self, fabric: Fabric, model: KGModel, config: TrainConfig, loader: TripleLoader):
        self.fabric, self.model, self.loader, self.steps = fabric, model, loader, config.gate_steps
        self.optimizer = torch.optim.Adam(model.gates(), lr=config.gate_lr)
        self.batches = iter(())

    def __call__(self) -> float:
        total = 0.0
        for _ in range(self.steps):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            self.optimizer.zero_grad()
            with self.fabric.autocast():
                loss = self.model.gate_loss(*batch)
            self.fabric.backward(loss)
            self.optimizer.step()
            total = total + loss.detach()
        return float(total) / self.steps


class _Average:
    r"""A running mean of the weights, corrected for its start; in a `with` block the model has it
    in place of its weights. With a decay of 0 it is the weights themselves, and costs nothing."""
    def __init__(self, model: KGModel, decay: float):
        self.model, self.decay, self.count = model, decay, 0
        self.mean = [torch.zeros_like(p) for p in model.parameters()] if decay > 0 else []
        self.kept: List[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        for mean, p in zip(self.mean, self.model.parameters(), strict=False):
            mean.lerp_(p, 1 - self.decay)

    @torch.no_grad()
    def __enter__(self) -> None:
        if self.mean:
            self.kept = [p.clone() for p in self.model.parameters()]
            for p, mean in zip(self.model.parameters(), self.mean, strict=True):
                p.copy_(mean / (1 - self.decay**self.count))

    @torch.no_grad()
    def __exit__(self, *args: Any) -> None:
        for p, kept in zip(self.model.parameters(), self.kept, strict=False):
            p.copy_(kept)
        self.kept = []


class _Best:
    r"""The best weights so far, by the MRR of the selecting split."""
    def __init__(self, model: KGModel):
        self.model, self.epoch = model, 0
        self.mrr: Optional[float] = None
        self.state: Optional[Dict[str, Tensor]] = None

    def offer(self, mrr: float, epoch: int) -> None:
        if self.mrr is None or mrr > self.mrr:
            self.mrr = mrr
            self.keep(epoch)

    def keep(self, epoch: int) -> None:
        self.epoch = epoch
        self.state = copy.deepcopy(self.model.state_dict())

    def restore(self) -> None:
        if self.state is not None:
            self.model.load_state_dict(self.state)
