import sys

from benchmarks import atlas, conv, datasets, momok, reading, scatter

MEASUREMENTS = {'atlas': atlas.main, 'conv': conv.main, 'datasets': datasets.main,
                'momok': momok.main, 'reading': reading.main, 'scatter': scatter.main}

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in MEASUREMENTS:
        sys.exit(f'usage: python -m benchmarks NAME [...], with NAME one of '
                 f'{", ".join(MEASUREMENTS)}')
    MEASUREMENTS[sys.argv[1]](sys.argv[2:])
