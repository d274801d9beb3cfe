"""Sphinx configuration. API pages follow from the `classes` list of each sub-package."""
import importlib
import inspect
import os
import sys

import jinja2
from click.testing import CliRunner

sys.path.insert(0, os.path.abspath('..'))

import pyg_mmkgc  # noqa: E402
from pyg_mmkgc.cli import main  # noqa: E402

project = 'pyg_mmkgc'
author = 'pyg_mmkgc contributors'
copyright = f'2026, {author}'
version = release = pyg_mmkgc.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.doctest',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
exclude_patterns = ['_build', 'results_runs.md']  # Included by results.md.
html_theme = 'furo'
html_title = f'{project} {version}'

myst_enable_extensions = ['amsmath', 'dollarmath']
myst_heading_anchors = 3
# Docstrings that PyG and torch wrote are theirs, and not checked by our build.
autodoc_inherit_docstrings = False
autodoc_default_options = {'members': True, 'member-order': 'bysource', 'show-inheritance': True}
autodoc_typehints = 'none'  # Types stand in the docstrings.
napoleon_custom_sections = [('Shapes', 'params_style')]
doctest_test_doctest_blocks = ''  # Marked blocks only, not the fragments in docstrings.


def api(name):
    """The directives of all that a sub-package exports."""
    module = importlib.import_module(name)
    lines = [f'.. automodule:: {name}', '   :no-members:', '']
    for member in module.classes:
        value = getattr(module, member)
        if inspect.isclass(value) or inspect.isfunction(value):
            kind = 'class' if inspect.isclass(value) else 'function'
            lines += [f'.. auto{kind}:: {name}.{member}', '']
        else:  # A constant; autodoc would show the docstring of its type.
            value = sorted(value) if isinstance(value, dict) else value
            lines += [f'.. py:data:: {name}.{member}', '', f'   ``{value!r}``', '']
    return '\n'.join(lines)


def usage(command):
    """What a command prints as its help."""
    output = CliRunner().invoke(main, [command, '--help'], prog_name='pyg-mmkgc').output
    return f'```text\n{output.strip()}\n```'


def render(app, docname, source):
    """Fill in `{{ api('...') }}` and `{{ usage('...') }}`."""
    if docname.startswith('api/') or docname == 'command_line':
        source[0] = jinja2.Template(source[0]).render(api=api, usage=usage)


def setup(app):
    app.connect('source-read', render)
    return {'parallel_read_safe': True}
