r"""ComplEx on several devices of one machine, with the table of entities spread over them.

    python examples/multi_gpu.py --devices 2               # two GPUs, or two processes on a CPU
    torchrun --nproc-per-node 2 examples/multi_gpu.py      # the same; also for several machines
    python examples/multi_gpu.py --smoke                   # two processes on a CPU, seconds

Each process runs this file from its beginning. They train on shares of the same batches, and rank
over shares of the candidates; the numbers are those of one process. See docs/scaling.md.
"""
import argparse

import torch.distributed as dist

from pyg_mmkgc.data import build_index, seen_entities
from pyg_mmkgc.datasets import DB15K, Atlas
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import ComplEx
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.training import TrainConfig, Trainer, launch, world

parser = argparse.ArgumentParser()
parser.add_argument('--dataset', choices=['atlas', 'db15k'], default='atlas')
parser.add_argument('--root', help='where DB15K is kept')
parser.add_argument('--mirror', help='a folder that holds DB15K/<file>')
parser.add_argument('--devices', type=int, default=2)
parser.add_argument('--epochs', type=int, default=40)
parser.add_argument('--hidden_channels', type=int, default=200)
parser.add_argument('--batch_size', type=int, default=1024, help='of all processes together')
parser.add_argument('--smoke', action='store_true', help='an epoch of a tiny model, on the CPU')
args = parser.parse_args()
if args.smoke:
    args.epochs, args.hidden_channels = 1, 16

device = 'cpu' if args.smoke else 'auto'
processes = launch(device, *world(args.devices, num_nodes=1))
with processes.first():  # It downloads, and the others find what is there.
    data = Atlas()[0] if args.dataset == 'atlas' else DB15K(args.root, mirror=args.mirror)[0]

sampler = EGNS(data['entity'].num_nodes, 32, known=build_index(data, ['train']),
               candidates=seen_entities(data))
model = ComplEx.from_data(data, hidden_channels=args.hidden_channels, objective='sampled',
                          neg_sampling=sampler)
config = TrainConfig(epochs=args.epochs, batch_size=args.batch_size, lr=0.1, device=device,
                     select=None if args.dataset == 'db15k' else 'val', shard_tables=True)
result = Trainer(config, log=True).fit(model, data)

# All processes rank, each over its share of the candidates, and all have the result.
model.to('cpu')
metrics = evaluate(model, data, 'test', process_group=processes.group).metrics()
if processes.is_first:
    print(f'{processes.size} processes, loss {result.history[-1]["loss"]:.4f}, '
          f'test MRR {metrics["mrr"]:.4f}, Hits@10 {metrics["hits@10"]:.4f}')
if processes.size > 1:
    dist.destroy_process_group()
