r"""The JSON API and the page, on FastAPI; what :func:`~pyg_mmkgc.serve.create_app` imports."""
from pathlib import Path
from typing import Annotated, Any, Dict, Iterable, List, Literal, Optional

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel

import pyg_mmkgc
from pyg_mmkgc.evaluation.memory import OutOfMemoryError
from pyg_mmkgc.report.page import FOLDER as REPORT_FOLDER
from pyg_mmkgc.report.page import METRICS, render
from pyg_mmkgc.serve.guard import Guard
from pyg_mmkgc.serve.served_run import MAX_CHOICES, MAX_TOP, ServedRun, UnknownError

FOLDER = Path(__file__).parent / 'templates'
#: Characters of a label, and of a text to be completed, at most.
MAX_LABEL, MAX_QUERY = 1000, 200
#: Ids are numbers that every JSON reader knows.
MAX_ID = 2**53
#: FastAPI would hand spans, metrics and logs to OpenTelemetry, where that is set up.
NO_TELEMETRY: Any = {'tracing': False, 'metrics': False, 'logs': False,
                     'operation_spans': False, 'auto_configure': False}


class Problem(BaseModel):
    r"""What was wrong with a request."""
    detail: str


class Choice(BaseModel):
    r"""An entity or a relation."""
    id: int
    label: str


class Example(BaseModel):
    r"""A question."""
    entity: str
    relation: str


class RunInfo(BaseModel):
    r"""What the run is. Metrics are those of both sides, by split."""
    version: str
    dataset: str
    model: str
    seed: int
    num_entities: int
    num_relations: int
    triples: Dict[str, int]
    modalities: List[str]
    calibrated: bool
    metrics: Dict[str, Dict[str, float]]
    versions: Dict[str, Optional[str]]
    examples: List[Example]


class Entity(Choice):
    r"""An entity, the modalities that the model sees of it, and what there is to look at; pictures
    are `data:` addresses."""
    modalities: List[str]
    texts: Dict[str, str]
    numbers: Dict[str, float]
    pictures: Dict[str, str]


class Answer(Choice):
    r"""An answer. `known` is the first split that holds the fact, else `new`; `rank_with_all` its
    rank with no modality switched off, null below the first hundred."""
    rank: int
    score: float
    probability: float
    known: Optional[str]
    rank_with_all: Optional[int]
    modality_weights: Optional[Dict[str, float]]


class Prediction(BaseModel):
    r"""Answers, best first. The weights are those of the modalities of the entity asked about."""
    entity: Choice
    relation: Choice
    calibrated: bool
    modality_weights: Optional[Dict[str, float]]
    answers: List[Answer]


Text = Annotated[str, Query(max_length=MAX_QUERY, description='What the label begins with, or '
                            'else holds; the case does not matter.')]
Limit = Annotated[int, Query(ge=1, le=MAX_CHOICES, description='The number of labels.')]


def build_app(served: ServedRun, names: Iterable[str] = ()) -> FastAPI:
    r"""The application, see :func:`~pyg_mmkgc.serve.create_app`.

    Args:
        served (ServedRun): The run.
        names (Iterable[str], optional): See :class:`~pyg_mmkgc.serve.guard.Guard`.
            (default: none)
    """
    info = served.info()
    problems: Dict[Any, Dict[str, Any]] = {
        status: {'model': Problem, 'description': description} for status, description in [
            (404, 'There is nothing of that label or id.'),
            (422, 'An argument is missing, too long or out of range.')]}
    app = FastAPI(
        title=f'pyg_mmkgc: {info["model"]} on {info["dataset"]}', version=pyg_mmkgc.__version__,
        description='Asks the model of one run. Everything is read, nothing is changed.',
        docs_url=None, redoc_url=None, telemetry=NO_TELEMETRY)
    app.add_middleware(Guard, names=names)
    _handle_errors(app)
    num_modalities = len(served.modalities)
    modalities: Dict[str, Any] = {'maxItems': num_modalities}
    if served.modalities:  # An empty choice is no schema.
        modalities['items'] = {'type': 'string', 'enum': served.modalities}

    @app.get('/api/run')
    def run() -> RunInfo:
        r"""Dataset, model, metrics, modalities, versions, and questions to begin with."""
        metrics = {split: {key: values[key] for key in METRICS}
                   for split, values in info['metrics'].items()}
        return RunInfo(version=pyg_mmkgc.__version__, **{**info, 'metrics': metrics})

    @app.get('/api/entities', responses={422: problems[422]})
    def entities(query: Text = '', limit: Limit = 10) -> List[Choice]:
        r"""Entities by their label: those that begin with the text first."""
        return [Choice(**choice) for choice in served.entities(query, limit)]

    @app.get('/api/relations', responses={422: problems[422]})
    def relations(query: Text = '', limit: Limit = 10) -> List[Choice]:
        r"""Relations by their label: those that begin with the text first."""
        return [Choice(**choice) for choice in served.relations(query, limit)]

    @app.get('/api/entities/{entity}', responses=problems)
    def one_entity(entity: Annotated[int, InPath(ge=0, le=MAX_ID)]) -> Entity:
        r"""One entity and what there is to look at of it."""
        found = served.entity(entity)
        return Entity(**{**found, **found['contents'].to_dict()})

    @app.get('/api/predict', responses=problems)
    def predict(
        entity: Annotated[str, Query(max_length=MAX_LABEL, description='The label of the entity '
                                     'that is asked about.')],
        relation: Annotated[str, Query(max_length=MAX_LABEL, description='The label of the '
                                       'relation.')],
        side: Annotated[Literal['tail', 'head'], Query(
            description='Asked for: tails of (entity, relation, ?) or heads of '
            '(?, relation, entity).')] = 'tail',
        top: Annotated[int, Query(ge=1, le=MAX_TOP, description='The number of answers.')] = 10,
        without: Annotated[List[str], Query(
            json_schema_extra=modalities, max_length=max(num_modalities, 1),
            description='Modalities that all entities are made to lack.')] = [],  # noqa: B006
        without_query: Annotated[List[str], Query(
            json_schema_extra=modalities, max_length=max(num_modalities, 1),
            description='Modalities that the entity asked about is made to lack.',
        )] = [],  # noqa: B006
        known: Annotated[bool, Query(description='Whether facts that the graph holds are answers, '
                                     'too.')] = True,
    ) -> Prediction:
        r"""The best answers to a question, with what each modality counted."""
        try:
            found = served.ask(entity, relation, side, top, without, without_query, known)
        except UnknownError:
            raise
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return Prediction(**found)

    _add_page(app, served, info)
    return app


def _handle_errors(app: FastAPI) -> None:
    # Each in one line, of the same form.
    @app.exception_handler(UnknownError)
    def unknown(request: Request, error: UnknownError) -> Response:
        return JSONResponse({'detail': str(error)}, 404)

    @app.exception_handler(OutOfMemoryError)
    def out_of_memory(request: Request, error: OutOfMemoryError) -> Response:
        return JSONResponse({'detail': str(error)}, 503)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = []
        for part in error.errors():
            got = '' if part['type'] == 'missing' else f' (got {_shortened(part["input"])})'
            problems.append(f"{part['loc'][0]} '{part['loc'][1]}': {part['msg']}{got}")
        return JSONResponse({'detail': '; '.join(problems)}, 422)


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f'{text[:length]}…'


def _add_page(app: FastAPI, served: ServedRun, info: Dict[str, Any]) -> None:
    page = render('serve.html', FOLDER, info=info, max_label=MAX_LABEL, max_top=MAX_TOP)
    style = ''.join((folder / name).read_text(encoding='utf-8') for folder, name in [
        (REPORT_FOLDER, 'style.css'), (FOLDER, 'serve.css')])
    script = (FOLDER / 'serve.js').read_text(encoding='utf-8')

    @app.get('/', include_in_schema=False)
    def index() -> Response:
        return HTMLResponse(page)

    @app.get('/serve.css', include_in_schema=False)
    def css() -> Response:
        return Response(style, media_type='text/css')

    @app.get('/serve.js', include_in_schema=False)
    def javascript() -> Response:
        return Response(script, media_type='text/javascript')
