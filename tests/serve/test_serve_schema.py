r"""The API against its own description, with requests that schemathesis makes up."""
import pytest
from hypothesis import HealthCheck, given, settings

from pyg_mmkgc.serve import create_app

schemathesis = pytest.importorskip('schemathesis')

few = settings(max_examples=15, deadline=None, derandomize=True, database=None,
               suppress_health_check=list(HealthCheck))
OPERATIONS = ['/api/run', '/api/entities', '/api/relations', '/api/entities/{entity}',
              '/api/predict']


@pytest.fixture(scope='module', params=['modalities', 'structure alone'])
def schema(request, app, structure):
    if request.param == 'structure alone':
        app = create_app(structure, ['testserver'])
    return schemathesis.openapi.from_asgi('/openapi.json', app)


@pytest.mark.parametrize('mode', list(schemathesis.GenerationMode))
@pytest.mark.parametrize('path', OPERATIONS)
def test_each_answer_is_one_that_is_described(path, mode, schema):
    # Right requests and wrong ones; not one of them is a failure of the server.
    operation = schema[path]['get']
    if mode == schemathesis.GenerationMode.NEGATIVE and path == '/api/run':
        return  # There is nothing to ask wrongly.

    @given(case=operation.as_strategy(generation_mode=mode))
    @few
    def check(case):
        case.call_and_validate()

    check()


def test_questions_about_what_is_there(schema):
    @given(case=schema['/api/predict']['get'].as_strategy())
    @few
    def check(case):
        case.query.update(entity='France', relation='borders')
        response = case.call_and_validate()
        assert response.status_code == 200
        assert 1 <= len(response.json()['answers']) <= case.query.get('top', 10)

    check()


def test_all_operations_are_described(schema):
    paths = schema.raw_schema['paths']
    assert list(paths) == OPERATIONS
    assert all(list(operations) == ['get'] for operations in paths.values())
    assert all(operations['get']['description'] for operations in paths.values())
