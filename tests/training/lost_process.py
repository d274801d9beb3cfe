r"""The command line, in which a process kills itself at some step: `lost_process.py COMMAND...`
with the environment variable LOST as `RANK:STEP`."""
import os
import signal
import sys

import pyg_mmkgc.training.run as run_module
from pyg_mmkgc.cli import main
from pyg_mmkgc.training import trainer


def arm(rank, number):
    step, calls = trainer._Steps.__call__, []

    def wrapper(self, *args):
        calls.append(None)
        if self.processes.rank == rank and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args)

    trainer._Steps.__call__ = wrapper


if __name__ == '__main__':
    run_module._draw = lambda run: None  # Pictures take longer than the training.
    if 'LOST' in os.environ:
        arm(*map(int, os.environ['LOST'].split(':')))
    main(sys.argv[1:], prog_name='pyg-mmkgc')
