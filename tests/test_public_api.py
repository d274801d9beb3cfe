import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import pyg_mmkgc

ROOT = pyg_mmkgc.__path__[0]
MODULES = sorted(
    name for _, name, is_package in pkgutil.walk_packages(pyg_mmkgc.__path__, 'pyg_mmkgc.')
    if is_package and hasattr(importlib.import_module(name), '__all__'))
NAMES = [pytest.param(module, name, id=f'{module}.{name}') for module in MODULES
         for name in importlib.import_module(module).__all__]


def order(name):
    """Constants, then classes, then functions, as ruff sorts them."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_all_sub_packages_are_found():
    assert {f'pyg_mmkgc.{name}' for name in (
        'data', 'datasets', 'evaluation', 'export', 'nn', 'nn.conv', 'nn.decoders', 'nn.experts',
        'nn.fusion', 'nn.information', 'nn.models', 'report', 'sampler', 'studies', 'testing',
        'training', 'transforms')} <= set(MODULES)


@pytest.mark.parametrize('module', MODULES)
def test_lists_of_public_names(module):
    module = importlib.import_module(module)
    names = list(module.__all__)
    assert names
    assert module.classes is module.__all__
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=order)
    assert not any(name.startswith('_') for name in names)
    assert module.__doc__


@pytest.mark.parametrize('module, name', NAMES)
def test_public_name(module, name):
    thing = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return  # A constant.
    assert thing.__module__.startswith('pyg_mmkgc')
    # Of its own, not what a dataclass or a base class makes up:
    doc = vars(thing).get('__doc__') if inspect.isclass(thing) else thing.__doc__
    assert doc
    assert len(doc.strip()) > 20
    assert not doc.startswith(f'{name}(')
    if not inspect.isclass(thing):
        return
    foreign = {a for base in thing.__mro__ if not base.__module__.startswith('pyg_mmkgc')
               for a in vars(base)}
    for attribute, member in vars(thing).items():
        # (PyG writes a method of its own into a `MessagePassing` class.)
        if (inspect.isfunction(member) and member.__code__.co_filename.startswith(ROOT)
                and not attribute.startswith('_')):
            # A method without words of its own is one that a base class explains.
            assert attribute in foreign or inspect.getdoc(getattr(thing, attribute)), attribute


@pytest.mark.parametrize('package', [m for m in MODULES if m.startswith('pyg_mmkgc.nn.')])
def test_nn_collects_its_sub_packages(package):
    names = set(importlib.import_module(package).__all__)
    assert names <= set(importlib.import_module('pyg_mmkgc.nn').__all__)


def test_version():
    assert pyg_mmkgc.__version__.count('.') == 2


def test_importing_is_quiet_and_light():
    # What PyG itself imports (transformers, where it is installed) is not ours to spare.
    code = ('import sys, logging; import torch_geometric; before = set(sys.modules); '
            'import pyg_mmkgc.nn, pyg_mmkgc.data, pyg_mmkgc.datasets, pyg_mmkgc.sampler; '
            'assert not logging.getLogger().handlers; '
            'bad = {"transformers", "torchvision", "torch_scatter", "matplotlib", "ogb", "pandas",'
            ' "pyarrow", "sklearn", "scipy"} & (set(sys.modules) - before); assert not bad, bad')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, '', '')
