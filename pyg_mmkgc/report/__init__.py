r"""Pages to look at: a run, runs beside each other, one answer. Each is one HTML file that holds
all that it shows, without network, server or script."""
from pyg_mmkgc.report.comparison import PairedTest, RunComparison, compare_runs, comparison_page
from pyg_mmkgc.report.explanation import explanation_page
from pyg_mmkgc.report.page import write_page
from pyg_mmkgc.report.reproduce import train_command
from pyg_mmkgc.report.run import Judged, judge, report_page

__all__ = classes = [
    'Judged',
    'PairedTest',
    'RunComparison',
    'compare_runs',
    'comparison_page',
    'explanation_page',
    'judge',
    'report_page',
    'train_command',
    'write_page',
]
