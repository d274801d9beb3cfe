r"""Several processes that train one model together, each on a device of its own.

Every process holds the model and steps it with the same gradient, the sum of what each finds on its
share of the batch (:mod:`pyg_mmkgc.data.share`). Gradients are added up here, after the backward
pass, rather than by :class:`~torch.nn.parallel.DistributedDataParallel`: that watches one call of
`forward`, where a model has three losses with parameters of their own, and it would make whole
tables of gradients that name a few rows.
"""
import json
import os
import re
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor
from torch.nn import Embedding

from pyg_mmkgc.data.share import Share, gather_rows, sum_rows
from pyg_mmkgc.nn import KGModel
from pyg_mmkgc.nn.sharded_embedding import ShardedEmbedding
from pyg_mmkgc.training.checkpoint import Parts, pack, unpack

#: Gradients of fewer numbers travel together.
BUCKET = 2**20
#: Seconds in which a process says that it is still there, once another one is not.
ANSWER_SECONDS = 2.0
#: How a `RuntimeError` says that another process is gone or late.
PATTERN = re.compile(r'gloo|nccl|connection|socket|broken pipe|timed? ?out|TCPStore|DistStore',
                     re.I)


class LostProcessError(ConnectionError):
    r"""Another process has ended or does not answer; the message names its rank."""


class Processes:
    r"""The processes that train together; one if there is nothing to it.

    Args:
        rank (int, optional): The number of this process. (default: :obj:`0`)
        size (int, optional): The number of processes. (default: :obj:`1`)
    """
    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        #: Small decisions go over the host, so that no GPU is waited for.
        self.control: Optional[Any] = None
        if size > 1 and dist.get_backend() != 'gloo':
            self.control = _control_group(dist.group.WORLD)

    @property
    def is_first(self) -> bool:
        r"""Whether this is the process that writes files and talks."""
        return self.rank == 0

    @property
    def group(self) -> Optional[Any]:
        r"""The group of all of them, None if there is one."""
        return dist.group.WORLD if self.size > 1 else None

    def share(self, num_rows: int) -> Optional[Share]:
        r"""What of a batch this process takes; None is all.

        Args:
            num_rows (int): The rows of the batch.
        """
        return Share(num_rows, self.rank, self.size) if self.size > 1 else None

    def any(self, *flags: bool) -> List[bool]:
        r"""For each flag, whether any process has it set.

        Args:
            *flags (bool): The flags of this process.
        """
        if self.size == 1:
            return list(flags)
        out = torch.tensor(flags, dtype=torch.int)
        dist.all_reduce(out, dist.ReduceOp.MAX, group=self.control)
        return [bool(x) for x in out.tolist()]

    def add_up(self, params: Sequence[Tensor]) -> None:
        r"""Replaces the gradient of each parameter by the sum of those of all processes.

        A sparse gradient stays one of distinct rows, those that any process has looked up.

        Args:
            params (Sequence[torch.Tensor]): The parameters, in the same order everywhere.
        """
        if self.size == 1:
            return
        small: List[Tensor] = []
        for p in params:
            if p.grad is not None and p.grad.is_sparse:
                p.grad = self._sum_of_rows(p.grad)
            elif p.numel() >= BUCKET:
                self._add_up([p])
            else:
                small.append(p)
                if sum(x.numel() for x in small) >= BUCKET:
                    self._add_up(small)
                    small = []
        if small:
            self._add_up(small)

    def _add_up(self, params: List[Tensor]) -> None:
        # A parameter without gradient is zeros with a flag that says so, since another process may
        # have one.
        there = torch.tensor([float(p.grad is not None) for p in params], device=params[0].device)
        flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).to(
            there.dtype) for p in params), there])
        dist.all_reduce(flat)
        *grads, there = flat.split([*(p.numel() for p in params), len(params)])
        for p, grad, found in zip(params, grads, there.tolist(), strict=True):
            if found > 0:
                p.grad = grad.view_as(p).to(p.dtype)

    def _sum_of_rows(self, grad: Tensor) -> Tensor:
        index, values = grad._indices()[0], grad._values()
        counts = self.counts(index.numel(), index.device)
        index, values = gather_rows(index, counts), gather_rows(values.float(), counts)
        return sum_rows(index, values, grad.shape, grad.dtype)

    def counts(self, count: int, device: torch.device) -> List[int]:
        r"""The number that each process gives.

        Args:
            count (int): That of this process.
            device (torch.device): Where the processes talk.
        """
        out = torch.zeros(self.size, dtype=torch.long, device=device)
        out[self.rank] = count
        dist.all_reduce(out)
        return out.tolist()

    def add(self, x: Tensor) -> Tensor:
        r"""The sum over all processes, in place.

        Args:
            x (torch.Tensor): What this process has.
        """
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gather(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        r"""The rows of all processes on the host of the first one; others get back their own.

        Args:
            x (torch.Tensor): The rows of this process.
            counts (Sequence[int]): How many rows each process has.
        """
        x = x.detach().cpu()
        part = x.new_zeros(max(counts), *x.shape[1:])
        part[:x.size(0)] = x
        parts = [torch.empty_like(part) for _ in counts] if self.is_first else None
        dist.gather(part, parts, 0, group=self.control)
        if parts is None:
            return x
        return torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)])

    def same_random_numbers(self, device: torch.device) -> None:
        r"""Lets all generators of torch stand where that of the first process stands: draws for
        rows of a share move them by unequal steps.

        Args:
            device (torch.device): The device of the model.
        """
        if self.size == 1:
            return
        states = [torch.get_rng_state()]
        if device.type == 'cuda':
            states.append(torch.cuda.get_rng_state(device))
        state = torch.cat(states)
        dist.broadcast(state, 0, group=self.control)
        host, *cuda = state.split([x.numel() for x in states])
        torch.set_rng_state(host.clone())
        for x in cuda:
            torch.cuda.set_rng_state(x.clone(), device)

    def same_tensors(self, tensors: Sequence[Tensor]) -> None:
        r"""Gives all processes the tensors of the first one, in place.

        Args:
            tensors (Sequence[torch.Tensor]): The tensors.
        """
        if self.size > 1:
            for x in tensors:
                group = self.control if x.device.type == 'cpu' else None
                dist.broadcast(x.data.view(-1).view(torch.uint8), 0, group=group)

    def same_state(self, state: Any) -> Any:
        r"""The state that the first process has, in all of them, on the host: others read no
        checkpoint.

        Args:
            state (Any): What :class:`Checkpoints` can hold; that of the first process counts.
        """
        if self.size == 1:
            return state
        tensors: Dict[str, Tensor] = {}
        header, size = torch.empty(0, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
        if self.is_first:
            packed = pack(state, '', tensors)
            shapes = [(key, list(x.shape), str(x.dtype)[6:]) for key, x in tensors.items()]
            header = torch.frombuffer(bytearray(json.dumps([packed, shapes]).encode()),
                                      dtype=torch.uint8)
            size[0] = header.numel()
        dist.broadcast(size, 0, group=self.control)
        header = header if self.is_first else header.new_empty(int(size))
        dist.broadcast(header, 0, group=self.control)
        packed, shapes = json.loads(header.numpy().tobytes())
        for key, shape, dtype in shapes:
            x = (tensors[key].detach().cpu().contiguous() if self.is_first else
                 torch.empty(shape, dtype=getattr(torch, dtype)))
            # As bytes, since not every library below knows every type.
            dist.broadcast(x.view(-1).view(torch.uint8), 0, group=self.control)
            tensors[key] = x
        return unpack(packed, tensors)

    def shard(self, model: KGModel) -> List[str]:
        r"""Spreads the rows of a model's entity tables over the processes.

        Args:
            model (KGModel): The model, with the same weights in all processes.

        Returns:
            List[str]: The names of the tables.
        """
        if self.size == 1:
            return []
        by_id = {id(table): table for table in model.entity_tables()}
        tables = {name: by_id[id(module)] for name, module in model.named_modules()
                  if id(module) in by_id}
        for name, table in tables.items():
            _replace(model, name, ShardedEmbedding(table))
        return list(tables)

    def unshard(self, model: KGModel, names: Sequence[str]) -> None:
        r"""Gives all processes whole tables again, on the host, where the model goes as well.

        Args:
            model (KGModel): The model.
            names (Sequence[str]): The names of its tables.
        """
        for name, table in _sharded(model, names).items():
            weight = self.gather(table.weight, table.counts)
            if not self.is_first:
                weight = weight.new_empty(table.num_embeddings, table.embedding_dim)
            dist.broadcast(weight.view(torch.uint8), 0, group=self.control)
            _replace(model, name, Embedding.from_pretrained(weight, freeze=False))
        if names:
            model.cpu()

    @contextmanager
    def first(self) -> Iterator[None]:
        r"""Lets the first process go through a block before all others, which then find what it
        has made."""
        if self.size > 1 and not self.is_first:
            with self.watch():
                dist.barrier(group=self.control)
        yield
        if self.size > 1 and self.is_first:
            with self.watch():
                dist.barrier(group=self.control)

    @contextmanager
    def watch(self) -> Iterator[None]:
        r"""Turns what the libraries below say of a process that is gone or late into one line.

        Raises:
            LostProcessError: If another process has ended or does not answer.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not PATTERN.search(str(error)):
                raise
            lost = self._lost()
            if not lost:
                raise LostProcessError(f'the processes lost each other ({error})') from error
            named = ' and '.join(map(str, lost))
            raise LostProcessError(
                f'the process of rank {named} has ended or does not answer (seen by rank '
                f'{self.rank} of {self.size}); its own message says more') from error

    def _lost(self) -> List[int]:
        # Whoever is left says so.
        others = {rank: f'alive/{rank}' for rank in range(self.size) if rank != self.rank}
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set(f'alive/{self.rank}', '1')
            end = time.monotonic() + ANSWER_SECONDS
            while others and time.monotonic() < end:
                others = {rank: key for rank, key in others.items() if not store.check([key])}
                time.sleep(0.05)
        except RuntimeError:
            return [0]  # Which keeps the store.
        return list(others)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(rank={self.rank}, size={self.size})'


class ShardedParts:
    r"""The parts of a training whose entity tables are sharded, with whole tables in their state:
    that of the first process is all, and any number of processes may go on with it.

    Args:
        parts (Parts): The parts.
        model (KGModel): The model.
        names (Sequence[str]): The names of its sharded tables.
        optimizers (Sequence[int]): Which optimisers are those of the tables.
        processes (Processes): The processes.
    """
    def __init__(self, parts: Parts, model: KGModel, names: Sequence[str],
                 optimizers: Sequence[int], processes: Processes):
        self.parts, self.optimizers, self.processes = parts, optimizers, processes
        self.names = [f'{name}.weight' for name in names]
        self.places = [i for i, (name, _) in enumerate(model.named_parameters())
                       if name in self.names]
        self.table = _sharded(model, names)[names[0]]  # All have as many rows.

    def state_dict(self) -> Any:
        return self._map(self.parts.state_dict(),
                         lambda x: self.processes.gather(x, self.table.counts))

    def load_state_dict(self, state: Any) -> None:
        start, size = self.table.start, self.table.weight.size(0)
        self.parts.load_state_dict(self._map(state, lambda x: x[start:start + size].clone()))

    def _map(self, state: Any, function: Callable[[Tensor], Tensor]) -> Any:
        # With the function applied to whatever has a row for each entity.
        def named(weights: Any) -> Any:
            return None if weights is None else {
                name: function(x) if name in self.names else x for name, x in weights.items()}

        def of_tables(values: Any) -> Any:
            return {**values, 'state': {
                i: {k: function(x) if isinstance(x, Tensor) and x.dim() == 2 else x
                    for k, x in found.items()} for i, found in values['state'].items()}}

        best, average = state['best'], state['average']
        return {**state, 'model': named(state['model']),
                'steps': [of_tables(values) if i in self.optimizers else values
                          for i, values in enumerate(state['steps'])],
                'best': {**best, 'state': named(best['state'])},
                'average': {**average, 'mean': [
                    function(x) if i in self.places else x
                    for i, x in enumerate(average['mean'])]}}


def _sharded(model: KGModel, names: Sequence[str]) -> Dict[str, ShardedEmbedding]:
    tables = dict(model.named_modules())
    return {name: table for name in names if isinstance(table := tables[name], ShardedEmbedding)}


def _replace(model: KGModel, name: str, module: Embedding) -> None:
    parent, _, last = name.rpartition('.')
    setattr(model.get_submodule(parent), last, module)


def world(devices: int, num_nodes: int) -> Tuple[int, int]:
    r"""Devices for each machine and the number of machines: those of `torchrun` if that has started
    this process.

    Args:
        devices (int): What is asked for otherwise.
        num_nodes (int): What is asked for otherwise.
    """
    if not dist.is_torchelastic_launched():
        return devices, num_nodes
    local = int(os.environ['LOCAL_WORLD_SIZE'])
    return local, int(os.environ['WORLD_SIZE']) // local


def launch(device: str, devices: int = 1, num_nodes: int = 1, minutes: float = 10.0) -> Processes:
    r"""Starts the further processes, which run the same program from its beginning until they come
    here too, and lets all of them know each other. Processes that do so already are taken as they
    are.

    Args:
        device (str): ``'cpu'``, ``'cuda'`` or ``'auto'``.
        devices (int, optional): Processes on each machine. (default: :obj:`1`)
        num_nodes (int, optional): The number of machines. (default: :obj:`1`)
        minutes (float, optional): How long processes wait for each other. (default: :obj:`10.0`)

    Raises:
        ValueError: If there are fewer GPUs.
        LostProcessError: If not all processes come here in time.
    """
    if dist.is_available() and dist.is_initialized():
        return current()
    if devices * num_nodes == 1:
        return Processes()
    on_gpu = device == 'cuda' or device == 'auto' and torch.cuda.is_available()
    if on_gpu and torch.cuda.device_count() < devices:
        raise ValueError(f"'devices' is {devices}, but this machine has "
                         f'{torch.cuda.device_count()} GPUs')
    try:
        Fabric(accelerator='cuda' if on_gpu else 'cpu', devices=devices, num_nodes=num_nodes,
               strategy=DDPStrategy(timeout=timedelta(minutes=minutes))).launch()
    except (RuntimeError, OSError) as error:
        raise LostProcessError(f'not all of {devices * num_nodes} processes came together within '
                               f'{minutes:g} minutes ({error})') from error
    return current()


def current() -> Processes:
    r"""The processes that know each other here, this one alone if nobody does."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


def close() -> None:
    r"""Ends the common work; what follows is that of one process."""
    if dist.is_available() and dist.is_initialized():
        _control_group.cache_clear()
        dist.destroy_process_group()


@lru_cache(maxsize=1)
def _control_group(world: Any) -> Any:
    return dist.new_group(backend='gloo')


def is_first_process() -> bool:
    r"""Whether this process is the first one, or will be, as far as its environment says."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return all(os.environ.get(name, '0') == '0' for name in ('RANK', 'LOCAL_RANK', 'NODE_RANK'))


def local_device(device: str, processes: Processes) -> Any:
    r"""What Fabric is told of the one device of this process.

    Args:
        device (str): ``'cpu'``, ``'cuda'`` or ``'auto'``.
        processes (Processes): The processes.
    """
    on_gpu = device == 'cuda' or device == 'auto' and torch.cuda.is_available()
    if processes.size == 1 or not on_gpu:
        return 1
    return [int(os.environ.get('LOCAL_RANK', processes.rank % torch.cuda.device_count()))]
