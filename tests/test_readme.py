"""README's code runs, and its set-up commands are what the checks run."""
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
EXAMPLES = sorted((ROOT / 'examples').glob('*.py'))
EPOCHS = re.compile(r'range\(\d+\)')


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace, outputs = {}, []
    for block in blocks('python'):
        # One epoch is enough to see that the loop runs.
        exec(compile(EPOCHS.sub('range(1)', block), 'README.md', 'exec'), namespace)  # noqa: S102
        outputs.append(capsys.readouterr().out)
    loop, answers, own = outputs
    mean_rank, mrr, hits = (float(x) for x in re.fullmatch(
        r'mean rank, MRR, Hits@10: \((.*), (.*), (.*)\)\n', loop).groups())
    # The middle of all candidates is what an untrained model would give.
    assert 1 <= mean_rank < namespace['data']['entity'].num_nodes / 2
    assert 0 < mrr <= 1
    assert 0 < hits <= 1
    assert len(answers.splitlines()) == 3
    assert 'structure' in answers
    assert own == 'torch.Size([4, 8]) tensor([ True,  True,  True, False])\n'


def test_loop_is_short_and_uses_public_names():
    loop = blocks('python')[0]
    assert len(loop.splitlines()) <= 25
    assert len(EPOCHS.findall(loop)) == 1
    for module, names in re.findall(r'^from (pyg_mmkgc\S*) import (.+)$', loop, re.MULTILINE):
        public = __import__(module, fromlist=['classes']).classes
        assert set(names.split(', ')) <= set(public), module


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_names_its_options(path):
    source = path.read_text(encoding='utf-8')
    assert len(source.splitlines()) <= 100
    calls = re.findall(rf'examples/{path.name}(.*)$', source.split('"""')[1], re.MULTILINE)
    shown = {option for call in calls for option in re.findall(r'--\w+', call)}
    assert '--smoke' in shown
    assert shown <= set(re.findall(r"add_argument\('(--\w+)'", source))


@pytest.mark.parametrize('name', ['run', 'test'])
def test_checks_extract_the_set_up_commands(name):
    out = subprocess.run(['bash', ROOT / '.ci' / 'run', '--print', name], text=True, check=True,
                         capture_output=True).stdout
    marked = re.search(rf'^<!-- {name} -->\n```bash\n(.*)\n```\n<!-- /{name} -->$', README,
                       re.MULTILINE).group(1)
    assert out == f'{marked}\n'
    parts = marked.split(' && ')
    assert parts[0] == 'python3 -m venv .venv'
    assert parts[1].startswith('.venv/bin/pip install -q -c constraints.txt -e ')
    assert parts[2:] == {'run': ['.venv/bin/pyg-mmkgc train'],
                         'test': ['.venv/bin/python -m pytest']}[name]


def test_unknown_command_is_an_error():
    out = subprocess.run(['bash', ROOT / '.ci' / 'run', '--print', 'nothing'], text=True,
                         capture_output=True)
    assert out.returncode == 2
    assert 'no single line between <!-- nothing -->' in out.stderr


def test_shell_blocks_name_commands_and_options_that_exist():
    from pyg_mmkgc.cli import main
    lines = [line for block in blocks('bash') for line in block.splitlines()]
    lines += re.findall(r'`(pyg-mmkgc [^`]+)`', README)
    calls = [match.group(1).split() for line in lines
             if (match := re.search(r'(?:^|/)pyg-mmkgc (.+)$', line))]
    assert len(calls) >= 5
    for name, *arguments in calls:
        command = main.commands[name]
        options = {option for p in command.params for option in p.opts} | {'--help'}
        assert {a for a in arguments if a.startswith('--')} <= options, name


def test_relative_links_lead_somewhere():
    # The lead's picture of the default run may be drawn after the text.
    links = [link for link in re.findall(r'(?<!!)\[[^\]]*\]\(([^)]+)\)', README)
             if not link.startswith('http')]
    assert links
    for link in links:
        assert (ROOT / link.partition('#')[0]).exists(), link
