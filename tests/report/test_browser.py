r"""The pages in a real browser."""
import pytest

from pyg_mmkgc.report import (
    compare_runs,
    comparison_page,
    explanation_page,
    report_page,
    write_page,
)

pytestmark = pytest.mark.browser

WIDTHS, SCHEMES = (1280, 400), ('light', 'dark')
NAMES = ('report', 'explanation', 'comparison', 'markup')


@pytest.fixture(scope='module')
def pages(browser, run, runs, markup, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pages')
    made = {
        'report': report_page(run),
        'explanation': explanation_page(run.explain('France', 'borders', 'Germany')),
        'comparison': comparison_page(compare_runs([runs / 'mocme', runs / 'complex'],
                                                   device='cpu')),
        'markup': report_page(markup),
    }
    for name, page in made.items():
        write_page(page, folder / f'{name}.html')
    return folder


@pytest.fixture
def visit(browser, pages):
    r"""Opens a page, offline; what the console says and what the page asks for is an error."""
    contexts, said = [], []

    def open_page(name, width=1280, scheme='light'):
        context = browser.new_context(viewport={'width': width, 'height': 900},
                                      color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: said.append(message.text))
        page.on('pageerror', lambda error: said.append(str(error)))
        page.on('dialog', lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on('request', lambda request: request.url.startswith(('file:', 'data:'))
                or said.append(request.url))
        page.goto((pages / f'{name}.html').as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize('name', NAMES)
def test_nothing_but_wide_tables_scrolls_sideways(name, visit):
    for width in WIDTHS:
        page = visit(name, width)
        assert page.evaluate('document.documentElement.scrollWidth') == width
        # What is wider than the page can be scrolled to, and captions need not be:
        outside = page.evaluate('''() => [...document.querySelectorAll('main *')].filter(
            e => e.getBoundingClientRect().right > innerWidth && !e.closest('.scroll')
        ).map(e => e.outerHTML.slice(0, 80))''')
        assert outside == []
        captions = page.evaluate('''() => [...document.querySelectorAll('caption')].map(
            e => e.getBoundingClientRect()).filter(box => box.width > 0 && box.right > innerWidth
        ).length''')
        assert captions == 0


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('name', NAMES)
def test_axe_finds_nothing(name, scheme, visit):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright').Axe()
    for width in WIDTHS:
        page = visit(name, width, scheme)
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        found = axe.run(page).response
        assert [(v['id'], v['nodes'][0]['html'][:200]) for v in found['violations']] == []
        assert any(rule['id'] == 'color-contrast' for rule in found['passes'])


def test_colour_schemes_differ(visit):
    colours = [visit('report', scheme=scheme).evaluate(
        'getComputedStyle(document.body).backgroundColor') for scheme in SCHEMES]
    assert colours == ['rgb(255, 255, 255)', 'rgb(20, 23, 28)']


def test_keyboard(visit):
    page = visit('report', 400)
    page.keyboard.press('Tab')
    skip = page.locator('.skip')
    assert skip.evaluate('e => e === document.activeElement')
    assert skip.bounding_box()['x'] >= 0  # It shows itself where it has the focus.
    page.keyboard.press('Enter')
    assert page.evaluate('document.activeElement.id') == 'main'
    reached = []
    for _ in range(60):
        page.keyboard.press('Tab')
        element = page.evaluate('''() => {
            const e = document.activeElement, style = getComputedStyle(e);
            return [e.tagName, e.getAttribute('aria-label'), style.outlineStyle];
        }''')
        if element[0] == 'BODY':
            break
        reached.append(element)
    assert all(style != 'none' for _, _, style in reached)
    assert {'DIV', 'SUMMARY'} <= {tag for tag, _, _ in reached}
    # A wide table scrolls by keyboard.
    wide = '[aria-label="Modality weights by relation"]'
    page.locator(wide).focus()
    page.keyboard.press('ArrowRight')
    page.wait_for_function('selector => document.querySelector(selector).scrollLeft > 0', arg=wide)
    page.locator('summary').first.focus()
    page.keyboard.press('Enter')
    assert page.locator('details').first.evaluate('e => e.open')


def test_links_lead_to_their_sections(visit):
    page = visit('report')
    for link in page.locator('nav a').all():
        link.click()
        heading = page.locator(link.get_attribute('href'))
        page.wait_for_timeout(20)
        assert heading.is_visible()


def test_pictures_are_drawn(visit):
    page = visit('explanation')
    sizes = page.evaluate('[...document.images].map(e => [e.complete, e.naturalWidth])')
    assert sizes == [[True, 64]] * 4 * 6  # Of the fact, and of five similar ones.
    assert page.evaluate("document.querySelectorAll('.bar').length") > 0
    widths = page.evaluate('''() => [...document.querySelectorAll('.bar')].map(
        e => e.getBoundingClientRect().width / e.parentElement.clientWidth)''')
    assert max(widths) > 0.5
    assert len({round(width, 2) for width in widths}) > 2


def test_markup_in_labels_is_text(visit):
    page = visit('markup')
    assert page.locator('script, b, img[onerror]').count() == 0
    assert page.get_by_text('<script>alert(1)</script>').count() > 0


def test_a_script_would_not_run(visit, browser, pages, tmp_path):
    # If an escape were forgotten, the policy of the page would still hold.
    text = (pages / 'report.html').read_text('utf-8').replace(
        '<main', '<script>document.title = "run"</script><main', 1)
    path = tmp_path / 'page.html'
    path.write_text(text, encoding='utf-8')
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.title() == 'mocme on atlas, seed 0: report'
    page.close()
