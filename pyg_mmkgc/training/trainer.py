import copy
import logging
import math
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import signature
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Type

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor
from torch.optim import Optimizer
from torch_geometric.data import HeteroData
from tqdm import tqdm

from pyg_mmkgc.data import EDGE, get_triples, split_names
from pyg_mmkgc.data.io import PathLike, atomic_path
from pyg_mmkgc.data.share import Share, sharing
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.evaluation.memory import keeping_memory
from pyg_mmkgc.nn.models import KGModel
from pyg_mmkgc.nn.models.base import Prepared
from pyg_mmkgc.nn.sharded_embedding import ShardedEmbedding
from pyg_mmkgc.sampler import TripleLoader
from pyg_mmkgc.training.checkpoint import Checkpoints, Generators, Parts
from pyg_mmkgc.training.distributed import Processes, ShardedParts, launch, local_device
from pyg_mmkgc.training.optim import ROW_OPTIMIZERS, RowOptimizer

try:
    import resource
except ImportError:  # Not on Windows.
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Batch = Tuple[Tensor, Tensor, Tensor]

TABLE_OPTIMIZERS = {'adagrad': torch.optim.Adagrad, 'adam': torch.optim.Adam,
                    'sgd': torch.optim.SGD}
#: Steps that a profile looks at, and operators that it prints.
PROFILED_STEPS, PROFILED_ROWS = 5, 15
#: Steps between two looks at the values of the loss, for which a GPU has to be waited for.
LOOK_STEPS = 100
#: How many times the loss of the first step (or one, if that is more) a part of it must not reach.
EXPLOSION = 1e4


@dataclass
class TrainConfig:
    r"""How a model is trained.

    Tables (entity and relation vectors) and dense weights have an optimiser each: tables learn
    best with Adagrad and a large step, projections with Adam and a small one. Of the tables of
    entities a ``'sampled'`` objective changes the rows of the batch alone
    (:class:`~pyg_mmkgc.training.optim.RowOptimizer`).

    Args:
        epochs (int): The largest number of passes over the training triples.
        batch_size (int): Triples per step, inverse ones counted.
        epoch_steps (int, optional): The largest number of steps in an epoch, for graphs that are
            too large to see as a whole between two looks at :obj:`select`; the next epoch goes on
            behind them. None is a whole pass.
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
        checkpoint_minutes (float, optional): Minutes between two checkpoints, where they are kept
            (:func:`train_run`); at the end of an epoch they may follow each other faster. None
            writes one only when the training is told to stop.
        seed (int): The seed of all generators.
        device (str): ``'cpu'``, ``'cuda'`` or ``'auto'``.
        precision (str): Precision as Lightning Fabric knows it, e.g. ``'bf16-mixed'``.
        devices (int): Processes on each machine, each with a device of its own (on a CPU: with
            its share of the cores), which take their shares of a batch of :obj:`batch_size`.
        num_nodes (int): The number of machines.
        shard_tables (bool): Whether the rows of entity tables are spread over the processes, for
            tables larger than the memory of a device; for a ``'sampled'`` objective.
        timeout_minutes (float): How long processes wait for each other.
    """
    epochs: int = 100
    batch_size: int = 1000
    epoch_steps: Optional[int] = None
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
    checkpoint_minutes: Optional[float] = 10.0
    seed: int = 0
    device: str = 'auto'
    precision: str = '32-true'
    devices: int = 1
    num_nodes: int = 1
    shard_tables: bool = False
    timeout_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ('epochs', 'batch_size', 'epoch_steps', 'eval_every', 'gate_steps',
                     'patience', 'devices', 'num_nodes'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name!r} needs to be at least 1 (got {value})')
        for name in ('lr', 'dense_lr', 'gate_lr', 'checkpoint_minutes', 'timeout_minutes'):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f'{name!r} needs to be positive (got {value})')
        if self.optimizer not in TABLE_OPTIMIZERS:
            raise ValueError(f"Unknown 'optimizer' {self.optimizer!r} (expected one of "
                             f'{list(TABLE_OPTIMIZERS)})')
        if not 0 <= self.average < 1:
            raise ValueError(f"'average' needs to be in [0, 1) (got {self.average})")
        if not 0 < self.held_out < 1:
            raise ValueError(f"'held_out' needs to be between 0 and 1 (got {self.held_out})")
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
        history (List[Dict[str, Any]]): One entry for each epoch: the parts of the loss,
            ``seconds``, of which ``prepare_seconds`` and ``step_seconds`` (of the host, which does
            not wait for a GPU), ``triples_per_second``, ``peak_memory_bytes`` since the process
            began (resident, or allocated on the GPU), and where the selecting split was looked at
            its ``val_mrr`` and ``select_seconds``.
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

    Several processes (:obj:`TrainConfig.devices`, or started by `torchrun`) do together what one
    does with the same batches, within rounding: each computes the loss of its share of a batch,
    gradients are added up, and all have the same weights at any time. They have to call
    :meth:`fit` with the same arguments; :obj:`checkpoints` and :obj:`log` are those of the first.

    Args:
        config (TrainConfig, optional): How to train. (default: :class:`TrainConfig()`)
        log (bool, optional): Whether to show a progress bar. (default: :obj:`False`)
        on_epoch (Callable, optional): Called with each entry of the history as it is made.
            (default: :obj:`None`)
        profile (str or os.PathLike, optional): Where to write a trace of the first steps by
            :mod:`torch.profiler`, as JSON that a browser shows (`chrome://tracing`); the operators
            that took most are printed. (default: :obj:`None`)
        checkpoints (Checkpoints, optional): Where the state of the training is kept; it goes on
            from what is found there. (default: nowhere)

    Raises:
        FileExistsError: If :obj:`profile` exists.
    """
    def __init__(self, config: Optional[TrainConfig] = None, log: bool = False,
                 on_epoch: Optional[Callable[[Dict[str, Any]], None]] = None,
                 profile: Optional[PathLike] = None, checkpoints: Optional[Checkpoints] = None):
        if profile is not None and Path(profile).exists():
            raise FileExistsError(f"'profile' exists already: {profile}")
        self.config = TrainConfig() if config is None else config
        self.log = log
        self.on_epoch = on_epoch
        self.profile = profile
        self.checkpoints = Checkpoints() if checkpoints is None else checkpoints

    def fit(self, model: KGModel, data: HeteroData) -> TrainResult:
        r"""Train a model in place and leave it with its best weights.

        Args:
            model (KGModel): The model, built for :obj:`data`.
            data (HeteroData): The graph.

        Raises:
            ValueError: If the selecting split does not exist.
            FloatingPointError: If the loss or a weight is not finite, or a part of the loss
                explodes (it is ten thousand times the loss of the first step); names the part, the
                epoch and the step. The model has its best weights so far.
            LostProcessError: If another process has ended or does not answer.
        """
        config = self.config
        processes = launch(config.device, config.devices, config.num_nodes,
                           config.timeout_minutes)
        with processes.watch(), keeping_memory():
            return self._fit(model, data, processes)

    def _fit(self, model: KGModel, data: HeteroData, processes: Processes) -> TrainResult:
        config = self.config
        for name in ('select', 'gate_split'):
            split = getattr(config, name)
            if split is not None and split not in split_names(data):
                raise ValueError(f'{name!r} names the unknown split {split!r} (expected one of '
                                 f'{split_names(data)})')
        if config.shard_tables and model.objective != 'sampled':
            raise ValueError(f"'shard_tables' needs 'objective' to be 'sampled' (got "
                             f'{model.objective!r}): other losses look at all rows in each step')
        seed_everything(config.seed, verbose=False)
        fabric = Fabric(accelerator=config.device, devices=local_device(config.device, processes),
                        precision=config.precision)  # type: ignore[arg-type]  # It is checked there.
        processes.same_tensors(list(model.state_dict(keep_vars=True).values()))
        shards = processes.shard(model) if config.shard_tables else []
        model.to(fabric.device)
        if model.neg_sampling is not None:
            model.neg_sampling.to(fabric.device)
        learned = any(p.requires_grad for p in model.gates())  # Else kept as they are.
        model.held_out_gates = len(model.gates()) > 0 and (config.gate_split is not None
                                                           or not learned)
        steps = _Steps(fabric, model, config, processes)
        gates = (_Gates(fabric, model, config, processes,
                        self._loader(data, config.gate_split, fabric))
                 if config.gate_split is not None and model.held_out_gates and learned else None)
        loader = self._loader(data, 'train', fabric)
        # Pass after pass, of which an epoch takes some batches:
        batches = chain.from_iterable(repeat(loader))
        num_steps = min(config.epoch_steps or len(loader), len(loader))
        average, best = _Average(model, config.average), _Best(model)
        progress = _Progress(model, processes)
        parts = {'model': model, 'steps': steps, 'loader': loader, 'gates': gates,
                 'neg_sampling': model.neg_sampling, 'average': average, 'best': best,
                 'progress': progress, 'generators': Generators(fabric.device)}
        whole = Parts({name: part for name, part in parts.items() if part is not None})
        self.checkpoints.processes = processes if processes.size > 1 else None
        self.checkpoints.attach('training', whole if not shards else ShardedParts(
            whole, model, shards, steps.row_optimizers, processes))
        group = {} if processes.group is None else {'process_group': processes.group}
        history, interrupted, together = progress.history, False, False
        bar = tqdm(total=config.epochs, initial=len(history), desc='Training', unit='epoch',
                   disable=not (self.log and processes.is_first))
        try:
            with self.checkpoints.stop:
                while not self._is_done(progress, best):
                    epoch = progress.epoch
                    entry = self._epoch(model, islice(batches, num_steps - progress.num_steps),
                                        steps, progress)
                    if gates is not None:
                        entry['gate_loss'] = gates()
                        progress.check({'gate_loss': entry['gate_loss']}, progress.num_steps)
                    progress.check_weights()
                    # What is kept of a batch but not learned is that of the first share.
                    processes.same_tensors([x for x in model.state_dict(keep_vars=True).values()
                                            if not isinstance(x, torch.nn.Parameter)])
                    average.update()
                    if config.select is None:
                        with average:
                            best.keep(epoch)
                    elif epoch % config.eval_every == 0 or epoch == config.epochs:
                        start = time.perf_counter()
                        with average:
                            entry['val_mrr'] = evaluate(model, data, config.select, **group).mrr
                            best.offer(entry['val_mrr'], epoch)
                        entry['select_seconds'] = time.perf_counter() - start
                    if resource is not None or fabric.device.type == 'cuda':
                        entry['peak_memory_bytes'] = peak_memory(fabric.device)
                    progress.end_epoch(entry)
                    if self.on_epoch is not None:
                        self.on_epoch(entry)
                    bar.update()
                    bar.set_postfix(loss=f'{entry["loss"]:.4f}', **(
                        {} if best.mrr is None else {'val_mrr': f'{best.mrr:.4f}'}))
                    self.checkpoints(epoch_ended=True)
            together = True
        except KeyboardInterrupt:
            logger.warning('Interrupted; the best weights so far are kept')
            interrupted = together = True
        except FloatingPointError:
            together = True
            raise
        finally:
            steps.close()
            # First of all, since closing the bar fails where nobody reads stderr any more:
            best.restore()
            if together:  # Else some process is elsewhere.
                processes.unshard(model, shards)
            bar.close()
        model.eval()
        return TrainResult(history, best.epoch, best.mrr, interrupted)

    def _is_done(self, progress: '_Progress', best: '_Best') -> bool:
        config, num_epochs = self.config, len(progress.history)
        return num_epochs >= config.epochs or (
            best.mrr is not None and config.patience is not None
            and num_epochs - best.epoch >= config.patience * config.eval_every)

    def _loader(self, data: HeteroData, split: str, fabric: Fabric) -> TripleLoader:
        return TripleLoader(*get_triples(data, split), self.config.batch_size,
                            num_relations=data[EDGE].num_relations, device=fabric.device,
                            generator=torch.Generator().manual_seed(self.config.seed))

    def _epoch(self, model: KGModel, batches: Iterator[Batch],
               steps: '_Steps', progress: '_Progress') -> Dict[str, Any]:
        # All steps of an epoch, or those that are left of it.
        model.train()
        seconds = progress.seconds
        end = time.perf_counter()
        with _profile(self.profile if progress.epoch == 1 else None) as profiled:
            for batch in batches:
                start = end
                share = steps.processes.share(batch[0].numel())
                own = _own(batch, share)
                with sharing(share):
                    prepared = model.prepare(*own)
                    middle = time.perf_counter()
                    progress.add(steps(own, prepared, share), batch[0].numel())
                profiled(progress.num_steps)
                # What the loader takes counts as preparation, too.
                end = time.perf_counter()
                seconds['prepare_seconds'] += middle - start
                seconds['step_seconds'] += end - middle
                seconds['seconds'] += end - start
                self.checkpoints()
                end = time.perf_counter()
        # Waits for what is still under way.
        progress.look()
        seconds['seconds'] += time.perf_counter() - end
        return progress.entry()


class _Progress:
    r"""Where a training stands: the epochs that are done, and the sums of the one under way."""
    _state = ('history', 'bound', 'num_steps', 'num_triples', 'totals', 'seconds')

    def __init__(self, model: KGModel, processes: Optional[Processes] = None):
        self.model, self.processes = model, processes or Processes()
        self.history: List[Dict[str, Any]] = []
        self.bound: Optional[float] = None
        self._new_epoch()

    def _new_epoch(self) -> None:
        self.num_steps = self.num_triples = 0
        self.totals: Dict[str, float] = {}
        self.seconds = {'prepare_seconds': 0.0, 'step_seconds': 0.0, 'seconds': 0.0}
        self._values: List[Dict[str, Tensor]] = []  # Of steps that were not looked at yet.

    @property
    def epoch(self) -> int:
        r"""The epoch under way."""
        return len(self.history) + 1

    def add(self, values: Dict[str, Tensor], num_triples: int) -> None:
        r"""Takes in a step, without a look at its values but now and then."""
        self._values.append(values)
        self.num_steps, self.num_triples = self.num_steps + 1, self.num_triples + num_triples
        if len(self._values) == LOOK_STEPS:
            self.look()

    def look(self) -> None:
        r"""Adds up what was not looked at yet; raises an error if a part has left all bounds."""
        steps, self._values = self._values, []
        if not steps:
            return
        values = torch.stack([x for step in steps for x in step.values()])
        numbers = iter(self.processes.add(values).tolist())
        for number, step in enumerate(steps, self.num_steps - len(steps) + 1):
            for name, value in self.check(dict(zip(step, numbers, strict=False)), number).items():
                self.totals[name] = self.totals.get(name, 0.0) + value

    def check(self, values: Dict[str, float], step: int) -> Dict[str, float]:
        r"""Raises an error if a value of the loss is not finite, or explodes; else returns all."""
        trouble, bad = 'is not finite', [n for n, x in values.items() if not math.isfinite(x)]
        if not bad:
            if self.bound is None:
                self.bound = EXPLOSION * max(1.0, abs(values['loss']))
            trouble = 'explodes'
            bad = [f'{n} is {x:.3g}' for n, x in values.items() if abs(x) > self.bound]
        if bad:
            # The sum of all tells nothing beside one of them.
            named = [part for part in bad if part.split()[0] != 'loss'] or bad
            self._fail(f"the loss {trouble}: {', '.join(named)}", step)
        return values

    def check_weights(self) -> None:
        r"""Raises an error if a weight is not finite."""
        weights = {name: p.detach() for name, p in self.model.named_parameters() if p.numel() > 0}
        # The extremes of a table with a NaN are NaN, and take no memory.
        lost = torch.stack([~torch.stack(p.aminmax()).isfinite().all()
                            for p in weights.values()]).long()
        counts = self.processes.add(lost).tolist()  # Of a table, others may have other rows.
        bad = [name for name, count in zip(weights, counts, strict=True) if count > 0]
        if bad:
            self._fail(f"the weights are not finite: {', '.join(bad)}", self.num_steps)

    def _fail(self, trouble: str, step: int) -> None:
        raise FloatingPointError(f'{trouble} (epoch {self.epoch}, step {step}); lower the learning '
                                 f'rates or clip the gradient')

    def entry(self) -> Dict[str, Any]:
        r"""What is told of the epoch."""
        return {'epoch': self.epoch,
                **{name: value / self.num_steps for name, value in self.totals.items()},
                **self.seconds, 'triples_per_second': self.num_triples / self.seconds['seconds']}

    def end_epoch(self, entry: Dict[str, Any]) -> None:
        r"""Keeps what is told of the epoch, and begins the next one."""
        self.history.append(entry)
        self._new_epoch()

    def state_dict(self) -> Dict[str, Any]:
        self.look()
        self.check_weights()  # A checkpoint holds nothing that is lost already.
        return {name: copy.copy(getattr(self, name)) for name in self._state}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.history.extend(state.pop('history'))
        for name, value in state.items():
            setattr(self, name, value)


class _Steps:
    r"""One optimisation step over all groups of parameters."""
    def __init__(self, fabric: Fabric, model: KGModel, config: TrainConfig,
                 processes: Optional[Processes] = None):
        self.fabric, self.model, self.config = fabric, model, config
        self.processes = processes or Processes()
        tables, alternating = model.tables(), model.alternating_parameters()
        apart = {id(p) for p in [*alternating, *(model.gates() if model.held_out_gates else [])]}
        tables = [p for p in tables if id(p) not in apart]
        known = apart | {id(p) for p in tables}
        dense = [p for p in model.parameters() if id(p) not in known]
        self.main, self.alternating = [], None
        # A sampled step looks up the rows of its batch, so that gradients of whole tables would be
        # nearly all zeros.
        self.sparse = model.entity_tables() if model.objective == 'sampled' else []
        for table in self.sparse:
            table.sparse = True
        rows = {id(table.weight) for table in self.sparse}
        for group, optimizers in [([p for p in tables if id(p) not in rows], TABLE_OPTIMIZERS),
                                  ([p for p in tables if id(p) in rows], ROW_OPTIMIZERS)]:
            if group:
                optimizer = optimizers[config.optimizer]
                self.main.append(optimizer(group, lr=config.lr, **_fused(optimizer, group)))
        if dense:
            self.main.append(torch.optim.AdamW(dense, lr=config.dense_lr,
                                               weight_decay=config.dense_weight_decay,
                                               **_fused(torch.optim.AdamW, dense)))
        if alternating:
            self.alternating = torch.optim.Adam(alternating, lr=config.dense_lr,
                                                **_fused(torch.optim.Adam, alternating))
        #: The places of the optimisers whose states have a row for each entity.
        self.row_optimizers = [i for i, optimizer in enumerate(self.main)
                               if isinstance(optimizer, RowOptimizer)]
        # The gradient of a shard has come together where its rows are.
        self.shards = [table.weight for table in self.sparse
                       if isinstance(table, ShardedEmbedding)]
        apart = {id(p) for p in self.shards}
        self.replicated = [p for p in self._params(self.main) if id(p) not in apart]

    def __call__(self, batch: Batch, prepared: Prepared,
                 share: Optional[Share] = None) -> Dict[str, Tensor]:
        if self.alternating is not None:
            self.alternating.zero_grad()
            with self.fabric.autocast():
                loss = self.model.alternating_loss()
            self.fabric.backward(_weighed(loss, share))
            self.processes.add_up(self._params([self.alternating]))
            self.alternating.step()
        for optimizer in self.main:
            optimizer.zero_grad()
        parts: Dict[str, Tensor] = {}
        with self.fabric.autocast():
            loss = self.model.loss(*batch, log=parts, prepared=prepared)
        self.fabric.backward(_weighed(loss, share))
        self.processes.add_up(self.replicated)
        self.processes.same_random_numbers(loss.device)
        if self.config.grad_clip is not None:
            self._clip(self.config.grad_clip)
        for optimizer in self.main:
            optimizer.step()
        if self.shards:  # Rounding drew numbers for the rows of this process.
            self.processes.same_random_numbers(loss.device)
        return {name: _weighed(x, share) for name, x in {'loss': loss.detach(), **parts}.items()}

    def _clip(self, most: float) -> None:
        # Not of all parameters: what another optimiser steps may have gradients of its own.
        params = [_gradient(p) for p in self._params(self.main)]
        if not self.shards:
            torch.nn.utils.clip_grad_norm_(params, most)
            return
        squares = [torch.stack([p.grad.float().square().sum() for p in map(_gradient, group)
                                if p.grad is not None] or [params[0].new_zeros(())]).sum()
                   for group in (self.replicated, self.shards)]
        norm = (squares[0] + self.processes.add(squares[1])).sqrt()
        factor = (most / (norm + 1e-6)).clamp(max=1)
        for p in params:
            if p.grad is not None:
                p.grad.mul_(factor)

    @staticmethod
    def _params(optimizers: Sequence[Optimizer]) -> List[Tensor]:
        return [p for optimizer in optimizers for group in optimizer.param_groups
                for p in group['params']]

    def state_dict(self) -> List[Dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._optimizers()]

    def load_state_dict(self, state: List[Dict[str, Any]]) -> None:
        for optimizer, value in zip(self._optimizers(), state, strict=True):
            optimizer.load_state_dict(value)

    def _optimizers(self) -> List[torch.optim.Optimizer]:
        return self.main + ([] if self.alternating is None else [self.alternating])

    def close(self) -> None:
        r"""Leave the model with the dense gradients that it came with."""
        for table in self.sparse:
            table.sparse = False


def _own(batch: Batch, share: Optional[Share]) -> Batch:
    # What this process computes of a batch.
    if share is None:
        return batch
    head_index, rel_type, tail_index = batch
    return head_index[share.rows], rel_type[share.rows], tail_index[share.rows]


def _weighed(x: Tensor, share: Optional[Share]) -> Tensor:
    return x if share is None else x * share.weight


def _fused(optimizer: Type[Optimizer], params: Sequence[Tensor]) -> Dict[str, Any]:
    # One pass over each parameter instead of five, where torch has it.
    return {'fused': True} if (
        'fused' in signature(optimizer).parameters
        and all(p.device.type in ('cpu', 'cuda') for p in params)) else {}


def _gradient(p: Tensor) -> Tensor:
    # Clipping knows no sparse gradients, but their values are in the same memory.
    if p.grad is None or not p.grad.is_sparse:
        return p
    values = p.grad._values()
    out = values.detach()
    out.grad = values
    return out


class _Gates:
    r"""The steps of the weights of modalities on held-out triples."""
    def __init__(self, fabric: Fabric, model: KGModel, config: TrainConfig, processes: Processes,
                 loader: TripleLoader):
        self.fabric, self.model, self.steps = fabric, model, config.gate_steps
        self.processes = processes
        self.optimizer = torch.optim.Adam(model.gates(), lr=config.gate_lr)
        self.loader = loader
        self.batches = chain.from_iterable(repeat(loader))

    def __call__(self) -> float:
        total = torch.zeros((), device=self.model.seen.device)
        for batch in islice(self.batches, self.steps):
            self.optimizer.zero_grad()
            share = self.processes.share(batch[0].numel())
            own = _own(batch, share)
            with sharing(share), self.fabric.autocast():
                loss = self.model.gate_loss(*own)
            loss = _weighed(loss, share)
            self.fabric.backward(loss)
            self.processes.add_up(self.model.gates())
            self.optimizer.step()
            total = total + loss.detach()
        return float(self.processes.add(total)) / self.steps

    def state_dict(self) -> Dict[str, Any]:
        return {'optimizer': self.optimizer.state_dict(), 'loader': self.loader.state_dict()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state['optimizer'])
        self.loader.load_state_dict(state['loader'])


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

    def state_dict(self) -> Dict[str, Any]:
        return {'count': self.count, 'mean': self.mean}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.count = state['count']
        for mean, value in zip(self.mean, state['mean'], strict=True):
            mean.copy_(value)


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
        if self.state is None:
            self.state = copy.deepcopy(self.model.state_dict())
            return
        for name, value in self.model.state_dict().items():
            self.state[name].copy_(value)  # Never two copies in memory.

    def restore(self) -> None:
        if self.state is not None:
            self.model.load_state_dict(self.state)

    def state_dict(self) -> Dict[str, Any]:
        return {'epoch': self.epoch, 'mrr': self.mrr, 'state': self.state}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.epoch, self.mrr = state['epoch'], state['mrr']
        if state['state'] is not None:
            model = self.model.state_dict()
            self.state = {name: x.to(model[name].device) for name, x in state['state'].items()}


def peak_memory(device: torch.device) -> int:
    r"""The most bytes of memory so far: what was allocated on a GPU, else what was resident.

    Args:
        device (torch.device): Where the model is.
    """
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024  # Linux counts in KiB.


@contextmanager
def _profile(path: Optional[PathLike]) -> Iterator[Callable[[int], None]]:
    # Yields what has to be called with the number of each step that was made.
    if path is None:
        yield lambda _: None
        return
    profiler, running = torch.profiler.profile(), True

    def stop(num_steps: int) -> None:
        nonlocal running
        if running and num_steps >= PROFILED_STEPS:
            profiler.stop()
            running = False

    profiler.start()
    try:
        yield stop
    finally:
        stop(PROFILED_STEPS)  # An epoch may be shorter.
    with atomic_path(path) as part:
        profiler.export_chrome_trace(str(part))
    print(profiler.key_averages().table(sort_by='self_cpu_time_total', row_limit=PROFILED_ROWS))
