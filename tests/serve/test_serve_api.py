import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from pyg_mmkgc import __version__
from pyg_mmkgc.cli import main
from pyg_mmkgc.evaluation.memory import OutOfMemoryError
from pyg_mmkgc.serve import create_app, open_socket, serve
from pyg_mmkgc.serve.guard import HEADERS

TestClient = pytest.importorskip('fastapi.testclient').TestClient
WebSocketDisconnect = pytest.importorskip('starlette.websockets').WebSocketDisconnect

PREDICT = '/api/predict?entity=France&relation=borders'
#: Ctrl-C as in a terminal, see tests/test_cli.py.
PROGRAM = [sys.executable, '-c', 'import signal; '
           'signal.signal(signal.SIGINT, signal.default_int_handler); '
           'from pyg_mmkgc.cli import main; main()']


@pytest.fixture(scope='module')
def client(app):
    return TestClient(app)


def problem(response, status):
    assert response.status_code == status
    assert list(response.json()) == ['detail']
    return response.json()['detail']


# Answers ########################################################################################


def test_run(client, run):
    found = client.get('/api/run').json()
    assert found['version'] == __version__
    assert (found['dataset'], found['model'], found['num_relations']) == ('atlas', 'mocme', 11)
    assert found['modalities'] == ['image', 'numeric', 'outline', 'structure', 'text']
    assert found['metrics']['test']['mrr'] == run.metrics['test']['both']['mrr']
    assert set(found['metrics']) == {'test', 'inductive_test'}
    assert found['versions'] == run.config['versions']


def test_completion(client):
    found = client.get('/api/entities', params={'query': 'fran', 'limit': 2}).json()
    assert found[0]['label'] == 'France'
    assert len(found) == 2
    assert client.get('/api/relations?query=BORD').json() == [{'id': found_id(client, 'borders'),
                                                               'label': 'borders'}]
    assert len(client.get('/api/entities').json()) == 10
    assert client.get('/api/entities?query=%00%25').json() == []


def found_id(client, relation):
    params = {'entity': 'France', 'relation': relation}
    return client.get('/api/predict', params=params).json()['relation']['id']


def test_entity(client, run):
    i = client.get('/api/entities?query=France&limit=1').json()[0]['id']
    found = client.get(f'/api/entities/{i}').json()
    assert found['label'] == 'France'
    assert found['texts'] == {'type': 'country', 'code': 'FR'}
    assert found['pictures']['image'].startswith('data:image/png;base64,')
    assert {key: found[key] for key in ('texts', 'numbers', 'pictures')
            } == run.contents(i).to_dict()


def test_predict(client, served):
    assert client.get(PREDICT).json() == served.ask('France', 'borders')
    found = client.get(f'{PREDICT}&side=head&top=3&without=image&without=text&known=false'
                       f'&without_query=numeric').json()
    assert found == served.ask('France', 'borders', 'head', 3, ['image', 'text'], ['numeric'],
                               False)
    assert client.get('/api/predict?entity=fRANCE&relation=Borders').json()['entity']['label'
                                                                                      ] == 'France'


def test_a_model_without_modalities(structure):
    client = TestClient(create_app(structure, ['testserver']))
    assert client.get('/api/run').json()['modalities'] == []
    assert client.get(PREDICT).json()['modality_weights'] is None
    assert problem(client.get(f'{PREDICT}&without=image'), 422).startswith(
        'ComplEx knows entities by structure alone, so no modality can be switched off')
    page = client.get('/').text
    assert 'type="range"' not in page
    assert 'id="entity"' in page


def test_an_interrupted_run_has_no_metrics(run):
    other = type(run)(run.path, run.config, run.model, run.data, dataset=run.dataset)
    client = TestClient(create_app(other, ['testserver']))
    found = client.get('/api/run').json()
    assert (found['metrics'], found['calibrated']) == ({}, False)
    assert 'test MRR' not in client.get('/').text
    assert not client.get(PREDICT).json()['calibrated']


# Errors #########################################################################################


@pytest.mark.parametrize('address, status, message', [
    ('/api/predict?entity=Frnce&relation=borders', 404, "Unknown entity 'Frnce' .*'France'"),
    ('/api/predict?entity=France&relation=bordrs', 404, "Unknown relation 'bordrs' .*'borders'"),
    ('/api/entities/99999', 404, r'Unknown entity 99999 \(expected an id from 0 to 1032\)'),
    (f'{PREDICT}&without=sound', 422, "Unknown modality 'sound'"),
    ('/api/predict?relation=borders', 422, "query 'entity': Field required$"),
    (f'{PREDICT}&top=0', 422, r"query 'top': .*greater than or equal to 1 \(got '0'\)"),
    (f'{PREDICT}&top=101', 422, "query 'top': .*less than or equal to 100"),
    (f'{PREDICT}&top=ten', 422, "query 'top': .*valid integer"),
    (f'{PREDICT}&side=left', 422, "query 'side': Input should be 'tail' or 'head'"),
    (f'{PREDICT}&known=perhaps', 422, "query 'known': .*valid boolean"),
    (PREDICT + '&without=text' * 6, 422, "query 'without': .*at most 5 items"),
    (PREDICT + '&without_query=text' * 6, 422, "query 'without_query': .*at most 5 items"),
    (f'/api/predict?relation=borders&entity={"x" * 1001}', 422,
     r"query 'entity': .*at most 1000 characters \(got 'x{59}…\)"),
    (f'/api/predict?entity=France&relation={"x" * 1001}', 422, "query 'relation': .*at most 1000"),
    (f'/api/entities?query={"x" * 201}', 422, "query 'query': .*at most 200 characters"),
    ('/api/relations?limit=51', 422, "query 'limit': .*less than or equal to 50"),
    ('/api/entities/-1', 422, "path 'entity': .*greater than or equal to 0"),
    ('/api/entities/x', 422, "path 'entity': .*valid integer"),
    ('/api/nothing', 404, 'Not Found'),
    ('/docs', 404, 'Not Found'),  # Its script would come from elsewhere.
])
def test_errors(client, address, status, message):
    assert re.search(message, problem(client.get(address), status))


def test_out_of_memory(client, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError('no room')

    monkeypatch.setattr('pyg_mmkgc.serve.served_run.predict', fail)
    assert 'predicting' in problem(client.get(PREDICT), 503)
    assert issubclass(OutOfMemoryError, MemoryError)


# What every request passes ######################################################################


@pytest.mark.parametrize('host, status', [
    ('127.0.0.1', 200), ('127.0.0.1:8000', 200), ('localhost:1', 200), ('LOCALHOST', 200),
    ('[::1]:8000', 200), ('192.168.1.7:8000', 200), ('testserver', 200),
    ('evil.example', 400), ('evil.example:8000', 400), ('127.0.0.1.evil.example', 400),
    ('localhost.evil.example', 400), ('', 400), ('[', 400), ('[::1', 400), ('a b', 400),
])
def test_host(client, host, status):
    for address in ('/', '/api/run', '/serve.js'):
        response = client.get(address, headers={'host': host})
        assert response.status_code == status
    if status == 400:
        assert response.json()['detail'].startswith(f'Unknown host {host!r} (expected an address')
        assert response.headers['x-frame-options'] == 'DENY'


@pytest.mark.parametrize('method', ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'QUERY'])
def test_only_reading(client, method):
    for address in ('/', '/api/run', '/nothing'):
        response = client.request(method, address)
        assert problem(response, 405).startswith(f"Unknown method '{method}'")
        assert response.headers['allow'] == 'GET, HEAD'


def test_head_has_no_body(client):
    for address in ('/', '/api/run', '/openapi.json'):
        response, full = client.head(address), client.get(address)
        assert (response.status_code, response.content) == (200, b'')
        assert response.headers == full.headers


def test_headers(client):
    for address in ('/', '/serve.js', '/serve.css', '/api/run', '/openapi.json', '/nothing',
                    '/api/predict'):
        response = client.get(address)
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
        assert not {'set-cookie', 'access-control-allow-origin'} & set(response.headers)
    policy = HEADERS['Content-Security-Policy']
    assert policy.startswith("default-src 'none'; ")
    assert 'unsafe' not in policy


def test_other_protocols_are_left_alone(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect('/'):
        pass
    with TestClient(client.app) as started:  # Its start and its end come through, too.
        assert started.get('/api/run').status_code == 200


def test_nothing_is_reported(run, monkeypatch, caplog):
    # FastAPI would set up what sends traces where the environment asks for it, and it warns if it
    # cannot.
    monkeypatch.setenv('FASTAPI_OTEL_AUTO_CONFIGURE', 'true')
    monkeypatch.setenv('OTEL_EXPORTER_OTLP_ENDPOINT', 'gopher://127.0.0.1:9')
    with TestClient(create_app(run, ['testserver'])) as client:
        assert client.get('/api/run').status_code == 200
    assert caplog.text == ''


# The page #######################################################################################


def test_page(client):
    page = client.get('/').text
    assert '<h1>mocme on atlas</h1>' in page
    assert page.count('type="range"') == 5
    assert '1,033 entities, 11 relations, seed 0; test MRR' in page
    assert '{' not in re.sub(r'<style>.*</style>', '', page, flags=re.DOTALL)
    # Nothing of it comes from elsewhere, and no script or style stands in it.
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert not re.search(r'<style|<script[^>]*>[^<]|\son[a-z]+=', page)
    assert client.get('/serve.js').headers['content-type'].startswith('text/javascript')
    style = client.get('/serve.css')
    assert style.headers['content-type'].startswith('text/css')
    assert '--heat' in style.text  # The colours of all pages,
    assert '.slider' in style.text  # and what this one needs beside.


def test_markup_in_labels(markup):
    client = TestClient(create_app(markup, ['testserver']))
    page = client.get('/').text
    assert '<script>alert' not in page
    assert '<b>bold' not in page
    assert '&lt;b&gt;bold&lt;/b&gt;' in page
    assert 'onerror=1>' not in page
    found = client.get('/api/entities?query=%3Cscript').json()
    assert found[0]['label'] == '<script>alert(1)</script>'
    assert client.get('/api/run').headers['content-type'] == 'application/json'
    for name in ('<script>alert(1)</script>', '" onmouseover="alert(2)" x="'):
        params = {'entity': name, 'relation': '{{ 7 * 7 }}'}
        assert client.get('/api/predict', params=params).json()['entity']['label'] == name


# The server #####################################################################################


def test_serve(run_folder):
    process = subprocess.Popen([*PROGRAM, 'serve', run_folder, '--port', '0', '--device', 'cpu'],
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        line = process.stdout.readline()
        address = re.fullmatch(r'(http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n', line).group(1)
        with urllib.request.urlopen(f'{address}api/run', timeout=60) as response:
            assert json.load(response)['dataset'] == 'atlas'
            assert 'server' not in response.headers
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, 'Interrupted\n')


def test_others_are_let_in_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr('uvicorn.Server.run', lambda self, sockets: None)
    for host, warnings in [('127.0.0.1', 0), ('0.0.0.0', 1)]:
        with open_socket(host, 0) as listening:
            serve(None, listening)
        assert len(caplog.records) == warnings
    assert 'Anybody who reaches 0.0.0.0 can ask the model' in caplog.text


def test_a_port_that_is_taken(run_folder):
    with open_socket(port=0) as listening:
        port = listening.getsockname()[1]
        result = CliRunner().invoke(main, ['serve', str(run_folder), '--port', str(port)])
    assert result.exit_code == 2
    assert f"cannot listen on port {port} of '127.0.0.1' (" in result.output
    assert result.output.count('\n') == 1
    with pytest.raises(OSError, match=r"cannot listen on port 1 of 'no\.such\.invalid'"):
        open_socket('no.such.invalid', 1)


def test_a_run_that_is_not_there(tmp_path):
    result = CliRunner().invoke(main, ['serve', str(tmp_path / 'none'), '--port', '0'])
    assert result.exit_code == 2
    assert 'There is no run folder' in result.output


@pytest.mark.parametrize('package, name', [('fastapi', 'FastAPI'), ('uvicorn', 'uvicorn')])
def test_a_missing_extra(package, name, run_folder, run, monkeypatch):
    for module in [m for m in sys.modules if m == 'pyg_mmkgc.serve.api' or m.startswith(package)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(main, ['serve', str(run_folder), '--port', '0'])
    assert result.exit_code == 2
    assert result.output.endswith(f'the page of a run needs {name}: pip install '
                                  f'"pyg-mmkgc[serve]"\n')


def test_the_extra_is_imported_by_what_needs_it():
    code = ('import sys; import pyg_mmkgc.cli, pyg_mmkgc.serve; '
            'assert not {"fastapi", "starlette", "uvicorn"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)
