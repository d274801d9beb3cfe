import sys

from benchmarks import (
    atlas,
    conv,
    datasets,
    engine,
    growth,
    large,
    momok,
    performance,
    quality,
    reading,
    scaling,
    scatter,
)

MEASUREMENTS = {module.__name__.rpartition('.')[2]: module.main
                for module in (atlas, conv, datasets, engine, growth, large, momok, performance,
                               quality, reading, scaling, scatter)}

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in MEASUREMENTS:
        sys.exit(f'usage: python -m benchmarks NAME [...], with NAME one of '
                 f'{", ".join(MEASUREMENTS)}')
    MEASUREMENTS[sys.argv[1]](sys.argv[2:])
