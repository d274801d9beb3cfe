import threading

import pytest
import torch

from pyg_mmkgc.evaluation import predict
from pyg_mmkgc.serve import ServedRun, UnknownError
from pyg_mmkgc.serve import served_run as module


def test_answers_are_those_of_predict(run, served):
    for side, end in [('tail', 'head'), ('head', 'tail')]:
        found = served.ask('France', 'borders', side, top=7)
        expected = run.predict(**{end: 'France'}, relation='borders', top=7)
        assert [answer['label'] for answer in found['answers']] == [x['entity'] for x in expected]
        for rank, (answer, values) in enumerate(zip(found['answers'], expected, strict=True), 1):
            assert answer['rank'] == answer['rank_with_all'] == rank
            assert run.data['entity'].label[answer['id']] == answer['label']
            assert answer['score'] == pytest.approx(values['score'], rel=1e-5)
            assert answer['probability'] == pytest.approx(values['probability'], rel=1e-4)
            assert answer['known'] == values['known']
            assert answer['modality_weights'] == values['modality_weights']['answer']
        assert found['modality_weights'] == expected[0]['modality_weights']['query']
        assert found['calibrated'] is (run.calibration['temperature'] is not None)


@torch.no_grad()
def test_a_modality_that_is_off_is_one_that_entities_lack(run, served):
    # By a graph that says so, not by `without`.
    entity = served.entities('France')[0]['id']
    every = served.ask('France', 'borders', top=100)
    rank_with_all = {answer['label']: answer['rank'] for answer in every['answers']}
    for options, rows in [({'without': ['image']}, slice(None)),
                          ({'without_query': ['image']}, entity)]:
        data = run.data.clone()
        data['entity'].image_mask[rows] = False
        data['entity'].image[rows] = 0
        run.model.attach(data)
        try:
            expected = predict(run.model, data, head='France', relation='borders')
        finally:
            run.model.attach(run.data)
        found = served.ask('France', 'borders', **options)
        assert [answer['label'] for answer in found['answers']] == [x['entity'] for x in expected]
        assert [answer['score'] for answer in found['answers']] == pytest.approx(
            [x['score'] for x in expected], rel=1e-4)
        assert found['answers'][0]['score'] != every['answers'][0]['score']
        assert found['modality_weights']['image'] == 0
        assert not found['calibrated']
        for answer in found['answers']:
            assert answer['rank_with_all'] == rank_with_all.get(answer['label'])
    assert found['answers'][0]['modality_weights']['image'] > 0  # Candidates keep theirs.
    # What is off for all is off for the one, too.
    twice = served.ask('France', 'borders', without=['image'], without_query=['image'])
    assert twice == served.ask('France', 'borders', without=['image'])


def test_everything_may_be_off(served):
    found = served.ask('France', 'borders', without=served.modalities)
    assert len(found['answers']) == 10
    assert set(found['modality_weights'].values()) == {0.0}


def test_entities_are_encoded_once_for_each_combination(run, monkeypatch):
    counted = []
    encode = type(run.model).encode

    def count(model, index=None):
        counted.append(index is None)
        return encode(model, index)

    monkeypatch.setattr(type(run.model), 'encode', count)
    served = ServedRun(run)
    for head in ('France', 'Spain'):
        for _ in range(2):
            served.ask(head, 'borders')
            served.ask(head, 'borders', without=['text', 'image'])
            served.ask(head, 'borders', without=['image', 'text', 'image'])
    assert sum(counted) == 2
    for modality in served.modalities:
        for head in ('France', 'Spain'):
            served.ask(head, 'borders', without_query=[modality])
    served.ask('France', 'borders')
    assert sum(counted) == 2 + 2 * len(served.modalities)
    assert served._without.cache_info().currsize == module.NUM_KEPT  # No more are kept.


def test_known_facts_are_left_out(served):
    found = served.ask('France', 'borders', known=False, top=30)
    assert {answer['known'] for answer in found['answers']} == {'new'}
    assert {answer['known'] for answer in served.ask('France', 'borders')['answers']} > {'train'}


def test_completion(served, run):
    names = [choice['label'] for choice in served.entities('FRA', 4)]
    assert names[:2] == ['Frafra', 'France']  # They begin with it, by the alphabet.
    assert 'Burundian Franc' in names
    labels = run.data['entity'].label
    plain = ([x for x in sorted(labels, key=str.casefold) if x.casefold().startswith('an')]
             + [x for x in sorted(labels, key=str.casefold)
                if 'an' in x.casefold() and not x.casefold().startswith('an')])
    found = served.entities(' An ', 1000)
    assert [choice['label'] for choice in found] == plain
    assert all(labels[choice['id']] == choice['label'] for choice in found)
    assert [choice['label'] for choice in served.entities('', 2)] == sorted(labels,
                                                                        key=str.casefold)[:2]
    assert served.entities('%_.*') == []  # No pattern of any kind.
    assert [choice['label'] for choice in served.relations('bord')] == ['borders']


def test_labels_that_are_shared_are_told_apart(run):
    twins = run.data.clone()
    labels = list(twins['entity'].label)
    france, spain = labels.index('France'), labels.index('Spain')
    labels[spain] = 'France'
    twins['entity'].label = labels
    served = ServedRun(type(run)(run.path, run.config, run.model, twins, dataset=run.dataset))
    names = [choice['label'] for choice in served.entities('France (')]
    assert names == [f'France (id {i})' for i in sorted([france, spain])]
    assert served.ask(f'France (id {spain})', 'borders')['entity']['id'] == spain
    with pytest.raises(UnknownError, match="Unknown entity 'France'"):
        served.ask('France', 'borders')
    assert twins['entity'].label[spain] == 'France'  # The graph of the run is not touched.


def test_entity(served, run):
    france = served.entities('France')[0]['id']
    found = served.entity(france)
    assert found['label'] == 'France'
    assert found['modalities'] == ['image', 'numeric', 'outline', 'structure', 'text']
    assert found['contents'] == run.contents(france)
    unseen = int((~run.model.seen).nonzero()[0])
    assert 'structure' not in served.entity(unseen)['modalities']


def test_info(served, run):
    info = served.info()
    assert (info['dataset'], info['model'], info['seed']) == ('atlas', 'mocme', 0)
    assert info['triples']['train'] == run.data['entity', 'to', 'entity'].edge_type.numel()
    assert info['metrics']['test'] == run.metrics['test']['both']
    assert len(info['examples']) == module.NUM_EXAMPLES
    for example in info['examples']:
        assert served.ask(**example)['answers']


def test_structure_alone(structure):
    served = ServedRun(structure)
    assert served.modalities == []
    found = served.ask('France', 'borders')
    assert found['modality_weights'] is None
    assert found['answers'][0]['modality_weights'] is None
    assert served.entity(0)['modalities'] == []
    with pytest.raises(ValueError, match=r"ComplEx knows entities by structure alone, so no "
                                         r"modality can be switched off \(got 'image'\)"):
        served.ask('France', 'borders', without=['image'])


def test_errors(served):
    with pytest.raises(UnknownError, match="Unknown entity 'Frnce'.*did you mean 'France'"):
        served.ask('Frnce', 'borders')
    with pytest.raises(UnknownError, match="Unknown relation 'border'.*did you mean 'borders'"):
        served.ask('France', 'border')
    with pytest.raises(ValueError, match=r"Unknown modality 'sound' \(expected some of \['image'"):
        served.ask('France', 'borders', without_query=['sound'])
    with pytest.raises(UnknownError, match=r'Unknown entity -1 \(expected an id from 0 to \d+\)'):
        served.entity(-1)


def test_labels_of_a_large_graph_are_not_compared(served, monkeypatch):
    monkeypatch.setattr(module, 'MAX_COMPARED', 100)
    assert served.ask(' fRANCE', 'borders')['entity']['label'] == 'France'
    with pytest.raises(UnknownError, match=r"Unknown entity 'Frnce' \(expected the label of one of "
                                           r'1033\)$'):
        served.ask('Frnce', 'borders')


def test_threads_do_not_disturb_each_other(served):
    questions = [(head, without) for head in ('France', 'Kenya', 'Peru')
                 for without in ((), ('image', ), ('text', ), ('numeric', ))]
    expected = {q: served.ask(q[0], 'borders', without=q[1]) for q in questions}
    found = []

    def ask_all(shift):
        for q in questions[shift:] + questions[:shift]:
            found.append((q, served.ask(q[0], 'borders', without=q[1])))

    threads = [threading.Thread(target=ask_all, args=(shift, )) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(questions)
    assert all(answer == expected[q] for q, answer in found)
