r"""A run that is asked over and over."""
import copy
import threading
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pyg_mmkgc.data import EDGE, Labels, get_triples, split_names
from pyg_mmkgc.data.labels import unique_labels
from pyg_mmkgc.evaluation import predict
from pyg_mmkgc.evaluation.memory import explain_out_of_memory
from pyg_mmkgc.evaluation.prediction import find_label
from pyg_mmkgc.nn import KGModel
from pyg_mmkgc.training import Run

#: Answers to one question, and labels that complete a word, at most.
MAX_TOP, MAX_CHOICES = 100, 50
#: Encoded graphs with modalities switched off that are kept, and entities whose contents are.
NUM_KEPT, NUM_CONTENTS = 8, 1024
#: Labels that a wrong one is compared with, at most: it takes a second of a core.
MAX_COMPARED = 20_000
#: Questions to begin with.
NUM_EXAMPLES = 5

#: A modality that is switched off, and of which entity; None for all.
Removed = Tuple[str, Optional[int]]


class UnknownError(ValueError):
    r"""There is nothing of that label or id."""


class ServedRun:
    r"""A run that is asked over and over, from several threads: all entities are encoded once, not
    for each question, and one question is answered at a time.

    Switching a modality off is :meth:`~pyg_mmkgc.nn.MultiModalModel.without`: the model answers as
    if the entities lacked it, and nothing is trained. What is encoded so is kept for the latest
    eight combinations.

    Args:
        run (Run): The run; its model is put into evaluation mode.
    """
    def __init__(self, run: Run):
        self.run = run
        run.model.eval()
        self.modalities: List[str] = list(getattr(run.model, 'modalities', []))
        self._data = copy.copy(run.data)
        labels = run.data['entity'].label
        self._entities, self._relations = (
            _Index(kind, unique_labels(list(labels), [f'id {i}' for i in range(len(labels))]))
            for kind, labels in [('entity', labels), ('relation', run.data[EDGE].label)])
        # An answer in words says which entity it is.
        self._data['entity'].label = Labels(self._entities.labels)
        self._every = torch.arange(len(labels))
        self._lock = threading.Lock()
        self._model = self._encode(())
        self._without = lru_cache(NUM_KEPT)(self._encode)
        self._contents = lru_cache(NUM_CONTENTS)(run.contents)

    def info(self) -> Dict[str, Any]:
        r"""What the run is: dataset, model, sizes, modalities, metrics, versions, and questions to
        begin with, each the first triple of test of one of the most frequent relations."""
        run, config = self.run, self.run.config
        return {
            'dataset': config['name'], 'model': config['model']['name'],
            'seed': config['train']['seed'], 'num_entities': len(self._entities.labels),
            'num_relations': len(self._relations.labels),
            'triples': {split: get_triples(run.data, split)[1].numel()
                        for split in split_names(run.data)},
            'modalities': self.modalities, 'calibrated': self._temperature is not None,
            'metrics': {split: values['both'] for split, values in run.metrics.items()},
            'versions': config['versions'], 'examples': self._examples(),
        }

    def entities(self, query: str, limit: int = 10) -> List[Dict[str, Any]]:
        r"""Entities whose label begins with a text, then those whose label holds it, each by the
        alphabet; the case does not matter.

        Args:
            query (str): The text.
            limit (int, optional): The number of entities. (default: :obj:`10`)

        Returns:
            List[Dict[str, Any]]: For each its ``'id'`` and its ``'label'``.
        """
        return self._entities.complete(query, limit)

    def relations(self, query: str, limit: int = 10) -> List[Dict[str, Any]]:
        r"""The same of relations.

        Args:
            query (str): The text.
            limit (int, optional): The number of relations. (default: :obj:`10`)
        """
        return self._relations.complete(query, limit)

    def entity(self, entity: int) -> Dict[str, Any]:
        r"""An entity: its ``'id'``, ``'label'``, the ``'modalities'`` that the model sees of it,
        and its ``'contents'``.

        Args:
            entity (int): Its id.

        Raises:
            UnknownError: If there is none.
        """
        if not 0 <= entity < len(self._entities.labels):
            raise UnknownError(f'Unknown entity {entity} (expected an id from 0 to '
                               f'{len(self._entities.labels) - 1})')
        there = self.modalities
        if there:
            model: Any = self.run.model
            _, masks = model.inputs(torch.tensor([entity], device=self._device))
            there = [m for m in there if bool(masks[m][0])]
        return {'id': entity, 'label': self._entities.labels[entity], 'modalities': there,
                'contents': self._contents(entity)}

    def ask(self, entity: str, relation: str, side: str = 'tail', top: int = 10,
            without: Sequence[str] = (), without_query: Sequence[str] = (),
            known: bool = True) -> Dict[str, Any]:
        r"""The best answers to :math:`(e, r, ?)` or :math:`(?, r, e)`, see
        :func:`~pyg_mmkgc.evaluation.predict`.

        Args:
            entity (str): The label of the entity asked about.
            relation (str): The label of the relation.
            side (str, optional): What is asked for, ``'tail'`` or ``'head'``.
                (default: :obj:`"tail"`)
            top (int, optional): The number of answers. (default: :obj:`10`)
            without (Sequence[str], optional): Modalities that no entity has. (default: none)
            without_query (Sequence[str], optional): Modalities that the entity asked about lacks.
                (default: none)
            known (bool, optional): Whether facts of the graph are answers, too.
                (default: :obj:`True`)

        Returns:
            Dict[str, Any]: ``'entity'`` and ``'relation'``, each with ``'id'`` and ``'label'``;
            ``'calibrated'``, which probabilities are with all modalities at most;
            ``'modality_weights'`` of the entity asked about; ``'answers'``, each with ``'rank'``,
            ``'id'``, ``'label'``, ``'score'``, ``'probability'``, ``'known'``,
            ``'modality_weights'``, and ``'rank_with_all'``: with nothing switched off, None below
            the first hundred.

        Raises:
            UnknownError: If a label is unknown (the message names similar ones).
            ValueError: If a modality is unknown.
        """
        e, r = self._entities.find(entity), self._relations.find(relation)
        removed = self._removed(e, without, without_query)
        question: Dict[str, Any] = {
            'head' if side == 'tail' else 'tail': e, 'relation': r,
            'exclude': () if known else split_names(self._data),
            'temperature': self._temperature}
        with self._lock, explain_out_of_memory('predicting', "take device 'cpu'"):
            model = self._without(removed) if removed else self._model
            answers = predict(model, self._data, top=top, **question)
            first = answers
            if removed:
                first = predict(self._model, self._data, top=MAX_TOP, **question)
        before = {answer['entity']: rank for rank, answer in enumerate(first, start=1)}
        weights = answers[0]['modality_weights'] if answers else None
        return {
            'entity': {'id': e, 'label': self._entities.labels[e]},
            'relation': {'id': r, 'label': self._relations.labels[r]},
            'calibrated': self._temperature is not None and not removed,
            'modality_weights': None if weights is None else weights['query'],
            'answers': [{
                'rank': rank, 'id': self._entities.ids[answer['entity']], 'label': answer['entity'],
                'score': answer['score'], 'probability': answer['probability'],
                'known': answer['known'], 'rank_with_all': before.get(answer['entity']),
                'modality_weights': (answer['modality_weights'] or {}).get('answer'),
            } for rank, answer in enumerate(answers, start=1)],
        }

    @property
    def _temperature(self) -> Optional[float]:
        return self.run.calibration.get('temperature')

    @property
    def _device(self) -> torch.device:
        return next(self.run.model.parameters()).device

    def _removed(self, entity: int, without: Sequence[str],
                 without_query: Sequence[str]) -> Tuple[Removed, ...]:
        unknown = sorted({*without, *without_query} - set(self.modalities))
        if unknown and not self.modalities:
            raise ValueError(f'{type(self.run.model).__name__} knows entities by structure alone, '
                             f'so no modality can be switched off (got {unknown[0]!r})')
        if unknown:
            raise ValueError(f'Unknown modality {unknown[0]!r} (expected some of '
                             f'{self.modalities})')
        everywhere, here = set(without), set(without_query) - set(without)
        return (*((m, None) for m in sorted(everywhere)), *((m, entity) for m in sorted(here)))

    @torch.no_grad()
    def _encode(self, removed: Tuple[Removed, ...]) -> KGModel:
        # The model as if entities lacked modalities, with all of them encoded for good.
        model: Any = self.run.model
        for modality, entity in removed:
            index = self._every if entity is None else torch.tensor([entity])
            model = model.without(modality, index)
        out = copy.copy(model)
        scorer = model.scorer()
        out.__dict__['scorer'] = lambda: scorer
        return out

    def _examples(self) -> List[Dict[str, str]]:
        split = 'test' if 'test' in split_names(self._data) else 'train'
        head_index, rel_type, _ = get_triples(self._data, split)
        count = rel_type.bincount()
        frequent = count.argsort(descending=True, stable=True)[:NUM_EXAMPLES].tolist()
        return [{'entity': self._entities.labels[int(head_index[(rel_type == r).nonzero()[0, 0]])],
                 'relation': self._relations.labels[r]} for r in frequent if count[r] > 0]


class _Index:
    # Labels that are unique, looked through in bulk.
    def __init__(self, kind: str, labels: Sequence[str]):
        self.kind, self.labels = kind, labels
        self.ids = {label: i for i, label in enumerate(labels)}
        folded = pa.array([label.casefold() for label in labels], pa.large_string())
        order = pc.sort_indices(folded)
        self._order, self._folded = order.to_numpy(), folded.take(order)

    def complete(self, query: str, limit: int) -> List[Dict[str, Any]]:
        pattern = query.strip().casefold()
        first = pc.starts_with(self._folded, pattern)
        other = pc.and_not(pc.match_substring(self._folded, pattern), first)
        rows = np.concatenate([pc.indices_nonzero(found)[:limit] for found in (first, other)])
        return [{'id': i, 'label': self.labels[i]} for i in self._order[rows[:limit]].tolist()]

    def find(self, label: str) -> int:
        if label in self.ids:
            return self.ids[label]
        if len(self.labels) <= MAX_COMPARED:
            try:
                return find_label(self.kind, self.labels, label)
            except ValueError as error:
                raise UnknownError(str(error)) from error
        rows = pc.indices_nonzero(pc.equal(self._folded, label.strip().casefold()))
        if len(rows) == 1:
            return int(self._order[rows[0].as_py()])
        raise UnknownError(f'Unknown {self.kind} {label!r} (expected the label of one of '
                           f'{len(self.labels)})')
