import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.report import (
    compare_runs,
    comparison_page,
    explanation_page,
    judge,
    report_page,
    write_page,
)
from pyg_mmkgc.training import load_run, relation_modality_weights

VOID = {'meta', 'img', 'line', 'circle', 'polyline'}


class Page(HTMLParser):
    r"""A page as its elements, each with attributes, path and text."""
    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert self.open == [], 'an element is not closed'

    def handle_starttag(self, tag, attrs):
        element = {'tag': tag, 'text': '', 'path': [e['tag'] for e in self.open], **dict(attrs)}
        assert len(dict(attrs)) == len(attrs), f'an attribute of <{tag}> occurs twice'
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({'tag': tag, 'text': '', **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()['tag'] == tag

    def handle_data(self, data):
        for element in self.open:
            element['text'] += data

    def all(self, *tags):
        return [element for element in self.elements if element['tag'] in tags]

    def text(self, tag='main'):
        return ' '.join(' '.join(e['text'] for e in self.all(tag)).split())

    def rows(self, caption):
        r"""The cells of the table whose caption begins so."""
        tables, cells = [], {}
        for element in self.elements:
            if element['tag'] == 'table':
                tables.append([])
            elif element['tag'] == 'caption':
                cells[' '.join(element['text'].split())] = tables[-1]
            elif element['tag'] == 'tr':
                tables[-1].append([])
            elif element['tag'] in ('th', 'td'):
                tables[-1][-1].append(' '.join(element['text'].split()))
        found, = [rows for text, rows in cells.items() if text.startswith(caption)]
        return found


def check(text):
    r"""What holds for each page: nothing is fetched or run, and a screen reader finds its way."""
    page = Page(text)
    assert text.startswith('<!DOCTYPE html>')
    assert page.all('script', 'link', 'iframe', 'object', 'form', 'base') == []
    policy, = [e['content'] for e in page.all('meta')
               if e.get('http-equiv') == 'Content-Security-Policy']
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ids = [e['id'] for e in page.elements if 'id' in e]
    assert len(set(ids)) == len(ids)
    for element in page.elements:
        assert not [key for key in element if key.startswith('on')], element
        for key in ('src', 'href'):
            if key in element:
                assert re.match(r'#[\w-]+$|data:image/(png|jpeg);base64,[\w+/=]+$', element[key])
        if element.get('href', '').startswith('#'):
            assert element['href'][1:] in ids
        for target in element.get('aria-labelledby', '').split():
            assert target in ids
        if 'style' in element:
            assert re.fullmatch(r'--share: \d\.\d{3}', element['style'])
    html, = page.all('html')
    assert html['lang'] == 'en'
    assert [len(page.all(tag)) for tag in ('title', 'h1', 'main', 'header', 'nav', 'footer')] == (
        [1] * 6)
    levels = [int(e['tag'][1]) for e in page.all('h1', 'h2', 'h3', 'h4')]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert len(page.all('table')) == len(page.all('caption')) > 0
    assert all(e['scope'] in ('col', 'row', 'colgroup') for e in page.all('th'))
    assert all(e['alt'] for e in page.all('img'))
    wide = [e for e in page.elements if e.get('class') == 'scroll']
    assert all((e['role'], e['tabindex']) == ('group', '0') and e['aria-label'] for e in wide)
    assert len(wide) == len(page.all('table'))
    return page


@pytest.fixture(scope='module')
def report(run):
    return check(report_page(run))


@pytest.fixture(scope='module')
def explanation(run):
    return run.explain('France', 'borders', 'Germany')


# The report of a run


def test_report_has_the_metrics_beside_the_baseline(run, report):
    rows = report.rows('test: mocme beside complex')
    for model, values in (('mocme', run.metrics['test']),
                          ('complex', run.metrics['test']['baseline'])):
        for side in ('both', 'head', 'tail'):
            row, = [row for row in rows if row[:2] == [model, side]]
            part = values[side]
            assert row[2:] == [f'{part[key]:.3f}' for key in (
                'mrr', 'hits@1', 'hits@3', 'hits@10', 'amri')] + [
                    f'{part["mr"]:.1f}', f'{part["count"]:,}']
    assert report.rows('inductive_test: mocme beside complex')
    assert 'Protocol: filtered by train, val, test, inductive_test; realistic ties' in report.text()


def test_report_has_groups(run, report):
    titles = {'by_relation': 'MRR by relation.', 'by_relation_class': 'MRR by relation class',
              'by_seen': 'MRR by whether', 'by_degree': 'MRR by degree',
              'by_modalities': 'MRR by coverage'}
    for key, title in titles.items():
        rows = report.rows(title)
        group, baseline = run.metrics['test'][key], run.metrics['test']['baseline'][key]
        assert len(rows) == 1 + len(group)
        for name, count, mrr, other, gain, _ in rows[1:]:
            assert (count, mrr) == (f'{group[name]["count"]:,}', f'{group[name]["mrr"]:.3f}')
            assert other == f'{baseline[name]["mrr"]:.3f}'
            assert gain == f'{group[name]["mrr"] - baseline[name]["mrr"]:+.3f}'
    order = [row[0] for row in report.rows('MRR by degree')[1:]]
    assert order == ['1-2', '3-5', '6-10', '11-20', '>20']


def test_report_has_curves_and_weights(run, report):
    rows = report.rows('Validation MRR')
    assert [row[1:] for row in rows[1:]] == [[str(e['epoch']), f'{e["val_mrr"]:.4f}']
                                            for e in run.history]
    weights = relation_modality_weights(run.model, run.data)
    heat = report.rows('The mean share of each modality')
    assert heat[1] == 2 * run.model.modalities
    for r, row in enumerate(heat[2:]):
        assert row[0] == run.data[EDGE].label[r]
        expected = torch.cat([weights[r], weights[r + run.data[EDGE].num_relations]])
        assert row[1:] == [f'{weight:.2f}' for weight in expected.tolist()]


def test_report_says_how_to_reproduce(run, report):
    text = report.text()
    assert 'pyg-mmkgc train --dataset atlas --recipe mocme-atlas --seed 0' in text
    for value in (*run.config['data'].values(), run.config['versions']['torch']):
        assert value in text
    assert 'hidden_channels: 8' in text
    assert 'warning: image: 11 of 249 rows' in text  # Of the audit.
    assert 'Probabilities are calibrated on val' in text


def test_best_and_worst(run, report):
    best, worst = judge(run)
    heads, relations, tails = get_triples(run.data, 'test')
    found = run.model.predict_triples(heads, relations, tails, run.calibration['temperature'])
    assert len(best) == len(worst) == 6
    assert [x.probability for x in best] == sorted((x.probability for x in best), reverse=True)
    assert [x.probability for x in worst] == sorted(x.probability for x in worst)
    # Among seen entities only, which can but raise a probability.
    assert best[0].probability >= float(found.probability.max()) - 1e-6
    for judged in (*best, *worst):
        assert sum(x.relation == judged.relation for x in (best if judged in best else worst)) <= 2
        assert judged.side == ('head' if judged.head_rank > judged.tail_rank else 'tail')
        assert [answer['known'] for answer in judged.answers] == ['new'] * 3
    text = ' '.join(report.text('article').split())
    assert f'Rank of the tail {worst[0].tail_rank:g}, of the head {worst[0].head_rank:g}' in text
    assert worst[0].answers[0]['entity'] in text
    pictures = [e['alt'] for e in report.all('img')]
    countries = [x.head for x in (*best, *worst) if x.head_contents.pictures]
    assert all(f'image of {country}' in pictures for country in countries)
    assert pictures


def test_report_of_another_split(run):
    page = check(report_page(run, 'inductive_test'))
    assert 'MRR by group, on inductive_test' in page.text()
    with pytest.raises(ValueError, match=r"'split' needs to be one of \['inductive_test', "):
        report_page(run, 'val')


def test_report_of_structure_alone(runs):
    page = check(report_page(load_run(runs / 'complex', device='cpu')))
    assert 'Modality weights' not in page.text()
    assert page.rows('test')[0][0] == 'model'
    assert len(page.rows('test')) == 4  # It is its own baseline.
    assert len(page.rows('MRR by relation.')[0]) == 4


def test_report_of_an_unfinished_run(runs, tmp_path):
    path = shutil.copytree(runs / 'mocme', tmp_path / 'run')
    for file in path.glob('metrics*.json'):
        file.unlink()
    page = check(report_page(load_run(path, device='cpu')))
    assert 'This run is not finished' in page.text()
    assert 'Best and worst' not in page.text()


# One answer


def test_explanation_page(explanation):
    page = check(explanation_page(explanation))
    assert page.text('h1') == 'France — borders → Germany'
    rows = page.rows('What each head')
    assert [row[:2] for row in rows[1:]] == [[name, f'{part:+.3f}'] for name, part
                                            in explanation.contributions.items()]
    rows = page.rows('Score and rank where a modality')
    assert [row[0] for row in rows[2:]] == explanation.modalities
    whole = {x.modality: x for x in explanation.removals if x.of == 'both'}
    for row in rows[2:]:
        assert row[5] == f'{whole[row[0]].score - explanation.score:+.3f}'
        assert row[6].split()[0].replace(',', '') == f'{whole[row[0]].rank:g}'
    assert [row[0] for row in page.rows('Facts with the same relation')[1:]] == [
        f'{fact.head} — borders → {fact.tail}' for fact in explanation.similar]
    assert {e['alt'] for e in page.all('img')} == {
        f'{kind} of {country}' for kind in ('image', 'outline') for country in (
            'France', 'Germany', *(x for fact in explanation.similar
                                   for x in (fact.head, fact.tail)))}
    assert 'population 68,' in page.text()


def test_explanation_page_of_an_entity_without_pictures(run):
    explanation = run.explain('Swahili', 'written_in', 'Latin')
    page = check(explanation_page(explanation))
    assert page.all('img') == []
    assert 'type: language' in page.text()
    assert page.rows('Swahili under the relation')[1][:2] == ['image', 'not there']


def test_explanation_page_of_structure_alone(runs):
    run = load_run(runs / 'complex', device='cpu')
    page = check(explanation_page(run.explain('France', 'borders', 'Germany')))
    assert 'ComplEx knows entities by structure alone' in page.text()


def test_sentence_about_the_largest_share(explanation):
    name, part = max(explanation.contributions.items(), key=lambda item: item[1])
    assert (f'Most of the score comes from {name} ({part:+.2f} of {explanation.score:.2f}).'
            in check(explanation_page(explanation)).text())
    alone = replace(explanation, contributions={'joint': explanation.score})
    assert 'Most of the score' not in check(explanation_page(alone)).text()


def test_sentence_about_the_worst_removal(explanation):
    worst = replace(explanation.removals[0], of='tail', rank=9999.0)
    page = check(explanation_page(replace(explanation, removals=[worst])))
    assert (f'Without {worst.modality} of Germany the rank falls from {explanation.rank:g} to 9999'
            in page.text())
    best = replace(worst, rank=explanation.rank)
    page = check(explanation_page(replace(explanation, removals=[best])))
    assert 'Without any one of the modalities the rank is not worse.' in page.text()


# Labels are data


def test_labels_are_escaped(markup):
    script, = [x for x in markup.data['entity'].label if x.startswith('<script>')]
    attribute, = [x for x in markup.data['entity'].label if 'onmouseover' in x]
    page = report_page(markup)
    parsed = check(page)
    assert script not in page
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page
    assert script in parsed.text()
    assert '{{ 7 * 7 }}' in parsed.text()  # Not filled in a second time.
    assert '<b>' not in page
    page = explanation_page(markup.explain(script, '<b>bold</b>', attribute))
    parsed = check(page)
    assert parsed.text('h1') == f'{script} — <b>bold</b> → {attribute}'
    assert f'A story of {script}' in parsed.text()


# Files


def test_write_page(tmp_path, explanation):
    path, page = tmp_path / 'page.html', explanation_page(explanation)
    write_page(page, path)
    assert path.read_text(encoding='utf-8') == page
    write_page(page + '\n', path)  # One of ours is replaced.
    assert path.read_text(encoding='utf-8') == page + '\n'
    other = tmp_path / 'thesis.html'
    other.write_text('my work')
    with pytest.raises(FileExistsError, match=r"thesis.html' exists, is no page of pyg-mmkgc"):
        write_page(page, other)
    assert other.read_text() == 'my work'
    assert len(list(tmp_path.iterdir())) == 2


# Runs beside each other


def test_comparison_page(runs):
    comparison = compare_runs([runs / 'mocme', runs / 'complex'], device='cpu')
    page = check(comparison_page(comparison))
    assert [row[0] for row in page.rows('test, both sides')[1:]] == ['mocme', 'complex']
    test, = comparison.tests
    row = page.rows('Difference in MRR')[1]
    assert row[:3] == ['mocme over complex', f'{test.gain.mean:+.4f}',
                       f'{test.gain.low:+.4f} to {test.gain.high:+.4f}']
    options = {row[0]: row[1:] for row in page.rows('Options of which')[1:]}
    assert options['model.name'] == ['mocme', 'complex']
    assert 'train.seed' not in options
    assert {row[0] for row in page.rows('Validation MRR')[1:]} == {'mocme', 'complex'}
