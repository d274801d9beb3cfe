r"""What the machine can do at best: the rate of its matrix products, and of its memory."""
import os
import time
from typing import Any, Callable, Dict

import torch

#: A large square product, and the products of a training step on DB15K: what a row is held
#: against is the best of them.
SHAPES = ((2048, 2048, 2048), (1000, 400, 12842), (1000, 12842, 400))
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
REPEATS = 10


def best(run: Callable[[], Any]) -> float:
    r"""The least seconds of a few repeats, after two for warming up."""
    seconds = []
    for _ in range(2 + REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[2:])


def measure() -> Dict[str, Any]:
    r"""Operations per second for each type, and bytes per second (read and written) of a copy
    that no cache holds."""
    rates = {}
    for name, dtype in DTYPES.items():
        rates[name] = 0.0
        for m, k, n in SHAPES:
            a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype).t()
            out = torch.empty(m, n, dtype=dtype)
            seconds = best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
            rates[name] = max(rates[name], 2 * m * k * n / seconds)
    source = torch.ones(2**28, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = best(lambda: target.copy_(source))
    return {'operations_per_second': rates, 'bytes_per_second': 2 * source.numel() / seconds,
            'load': os.getloadavg()}


def floor(rates: Dict[str, Any], dtype: str, operations: float, num_bytes: float,
          ) -> Dict[str, float]:
    r"""The seconds that operations and bytes take at these rates; the floor is the longer of the
    two, as if all else were hidden behind it."""
    by_operations = operations / rates['operations_per_second'][dtype]
    by_bytes = num_bytes / rates['bytes_per_second']
    return {'operations': by_operations, 'bytes': by_bytes, 'floor': max(by_operations, by_bytes)}
