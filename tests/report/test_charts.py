import pytest

from pyg_mmkgc.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, ticks
from pyg_mmkgc.report.run import curves


@pytest.mark.parametrize('values,expected', [
    ([0.0, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ([1, 14], [0, 5, 10, 15]),
    ([0.142, 0.321], [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]),
    ([23.0, 5500.0], [0, 1000, 2000, 3000, 4000, 5000, 6000]),
    ([-3e-4, 4e-4], [-0.0004, -0.0002, 0.0, 0.0002, 0.0004]),
    ([7.0, 7.0], [7.0]),
    ([], []),
])
def test_ticks(values, expected):
    assert ticks(values) == expected


def test_line_chart():
    chart = line_chart('Loss', 'epoch', 'loss', {
        'a': [(0, 0.0), (5, 5.0), (10, 10.0)], 'b': [(10, float('nan'))],
        'c': [(0, float('inf')), (2, 10.0)]})
    assert [line.name for line in chart.lines] == ['a', 'c']  # Of `b` nothing is left.
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    assert chart.lines[0].places == [(left, bottom), ((left + right) / 2, (top + bottom) / 2),
                                     (right, top)]
    assert chart.lines[1].values == [(2.0, 10.0)]
    assert chart.lines[0].path.split()[0] == f'{left:.1f},{bottom:.1f}'
    assert [tick.text for tick in chart.xticks] == ['0', '2', '4', '6', '8', '10']
    assert [tick.place for tick in chart.yticks] == pytest.approx(
        [bottom + i / 5 * (top - bottom) for i in range(6)])


def test_one_point():
    chart = line_chart('Loss', 'epoch', 'loss', {'a': [(1, 2.0)]})
    assert [tick.text for tick in chart.xticks] == ['1']
    assert len(chart.lines[0].places) == 1


def test_epochs_have_no_halves():
    chart = line_chart('Loss', 'epoch', 'loss', {'a': [(1, 2.0), (2, 1.0)]})
    assert [tick.text for tick in chart.xticks] == ['1', '2']


def test_curves_of_a_run_that_chose_its_epochs_first():
    history = [{'epoch': 1, 'loss': 3.0, 'val_mrr': 0.2, 'choosing': True},
               {'epoch': 2, 'loss': 2.0, 'val_mrr': 0.3, 'choosing': True},
               {'epoch': 1, 'loss': 2.5}]
    mrr, loss = curves({'run': history})
    assert [(line.name, line.values) for line in mrr.lines] == [
        ('run while choosing', [(1, 0.2), (2, 0.3)])]
    assert [(line.name, line.values) for line in loss.lines] == [
        ('run while choosing', [(1, 3.0), (2, 2.0)]), ('run', [(1, 2.5)])]
    assert curves({'run': []}) == []
