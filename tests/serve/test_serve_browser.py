"""The page in a real browser."""
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from pyg_mmkgc.serve import create_app

pytestmark = pytest.mark.browser

WIDTHS, SCHEMES = (1280, 400), ('light', 'dark')
QUESTION = {'entity': 'France', 'relation': 'borders'}
SWITCHED = {**QUESTION, 'without': 'image', 'without_query': 'text'}
SCRIPT = {'entity': '<script>alert(1)</script>', 'relation': '<b>bold</b>'}


@pytest.fixture(scope='module')
def addresses(app, structure, markup, listen):
    return {'page': listen(app), 'structure': listen(create_app(structure)),
            'markup': listen(create_app(markup))}


@pytest.fixture
def visit(browser, addresses):
    r"""Opens a page; what the console says and what is asked for elsewhere is an error."""
    contexts, said = [], []

    def open_page(name='page', question=None, width=1280, scheme='light'):
        context = browser.new_context(viewport={'width': width, 'height': 900},
                                      color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: said.append(message.text))
        page.on('pageerror', lambda error: said.append(str(error)))
        page.on('dialog', lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on('request', lambda request: request.url.startswith((addresses[name], 'data:'))
                or said.append(request.url))
        page.said = said
        page.goto(addresses[name] + ('' if question is None else f'?{urlencode(question)}'))
        if question is not None:
            page.wait_for_selector('#answers tbody tr')
            page.wait_for_load_state('networkidle')
        return page

    yield open_page
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert said == []


def answers(page):
    return page.locator('#answers th[scope="row"] a').all_inner_texts()


def asked(page):
    return parse_qs(urlsplit(page.url).query)


def test_typing_and_choosing_by_keyboard(visit, served):
    page = visit()
    page.keyboard.press('Tab')
    page.keyboard.press('Tab')
    entity = page.locator('#entity')
    assert entity.evaluate('e => e === document.activeElement')
    page.keyboard.type('fran')
    options = page.locator('#entity-choices [role="option"]')
    options.first.wait_for()
    assert entity.get_attribute('aria-expanded') == 'true'
    assert options.all_inner_texts() == [x['label'] for x in served.entities('fran')]
    page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowUp')
    active = page.locator(f'#{entity.get_attribute("aria-activedescendant")}')
    assert (active.inner_text(), active.get_attribute('aria-selected')) == ('France', 'true')
    page.keyboard.press('Enter')
    assert entity.input_value() == 'France'
    assert entity.get_attribute('aria-expanded') == 'false'
    page.keyboard.press('Tab')
    page.keyboard.press('ArrowDown')  # Without a text, all there are.
    page.locator('#relation-choices [role="option"]').first.wait_for()
    page.keyboard.press('Escape')
    assert not page.locator('#relation-choices').is_visible()
    page.keyboard.type('borders')
    page.keyboard.press('Enter')
    page.wait_for_selector('#answers tbody tr')
    assert answers(page) == [x['label'] for x in served.ask('France', 'borders')['answers']]
    assert asked(page) == {'entity': ['France'], 'relation': ['borders']}
    assert page.locator('#status').inner_text() == '10 answers to France — borders → ?'


def test_choosing_by_mouse(visit):
    page = visit()
    for name, text, label in [('entity', 'germ', 'Germany'), ('relation', 'bor', 'borders')]:
        page.locator(f'#{name}').press_sequentially(text)
        page.locator(f'#{name}-choices [role="option"]', has_text=label).first.click()
        assert page.locator(f'#{name}').input_value() == label
    page.get_by_role('heading', name='Answers to Germany — borders → ?').wait_for()


def test_pictures_and_weights_are_shown(visit, served):
    page = visit(question=QUESTION)
    found = served.ask('France', 'borders')
    assert page.locator('#asked-title').inner_text() == 'France'
    assert 'type: country; code: FR' in page.locator('#asked').inner_text()
    assert 'area 547,000' in page.locator('#asked').inner_text()
    page.locator('#answers img').nth(1).wait_for()
    sizes = page.evaluate('[...document.images].map(e => [e.complete, e.naturalWidth])')
    assert sizes == [[True, 64]] * len(sizes)
    for name, weight in found['modality_weights'].items():
        row = page.locator(f'.slider[data-modality="{name}"]')
        assert row.locator('.weight').inner_text() == f'{weight:.2f}'
        share = row.locator('.bar').evaluate(
            'e => e.getBoundingClientRect().width / e.parentElement.clientWidth')
        assert share == pytest.approx(weight, abs=0.05)
    first = page.locator('#answers tbody tr').first.locator('td').all_inner_texts()
    answer = found['answers'][0]
    assert first[0] == '1'
    assert first[2:4] == [f'{answer["probability"]:.3f}', f'{answer["score"]:.2f}']
    assert first[4:] == [f'{w:.2f}' for w in answer['modality_weights'].values()]


def test_sliders_switch_modalities_off_by_keyboard(visit, served):
    page = visit(question=QUESTION)
    slider = page.get_by_role('slider', name='numeric')
    assert slider.get_attribute('aria-valuetext') == 'on'
    for text, options in [('off for France', {'without_query': ['numeric']}),
                          ('off for all', {'without': ['numeric']})]:
        with page.expect_response(lambda response: 'without' in response.url):
            slider.press('ArrowLeft')
        expected = served.ask('France', 'borders', **options)
        score = page.locator('#answers tbody tr').first.locator('td:nth-of-type(5)')
        score.and_(page.get_by_text(f'{expected["answers"][0]["score"]:.2f}')).wait_for()
        assert slider.get_attribute('aria-valuetext') == text
        assert page.locator('.slider.off .state').inner_text() == text
        assert answers(page) == [x['label'] for x in expected['answers']]
        before = page.locator('#answers tbody tr td:nth-of-type(2)').all_inner_texts()
        assert before == [str(x['rank_with_all'] or 'over 100') for x in expected['answers']]
        assert asked(page) == {'entity': ['France'], 'relation': ['borders'], **options}
    again = visit(question={name: value for name, (value, ) in asked(page).items()})
    assert again.get_by_role('slider', name='numeric').input_value() == '0'
    assert answers(again) == answers(page)
    again.get_by_role('button', name='Switch all on').click()
    again.wait_for_url(lambda url: 'without' not in url)
    again.get_by_role('columnheader', name='with all').wait_for(state='detached')
    assert answers(again) == [x['label'] for x in served.ask('France', 'borders')['answers']]


def test_a_modality_that_is_not_there(visit, served):
    entity = next(x for x in served.entities('Euro', 50) if x['label'] == 'Euro')
    assert 'image' not in served.entity(entity['id'])['modalities']
    page = visit(question={'entity': 'Euro', 'relation': 'uses_currency', 'side': 'head'})
    assert page.locator('.slider[data-modality="image"] .weight').inner_text() == 'not there'
    assert page.title() == '? — uses_currency → Euro'


def test_options(visit, served):
    page = visit(question=QUESTION)
    page.get_by_label('leave out known facts').check()
    page.locator('td.new').nth(9).wait_for()
    assert answers(page) == [x['label'] for x in
                             served.ask('France', 'borders', known=False)['answers']]
    page.get_by_label('heads: (?, relation, entity)').check()
    page.get_by_role('heading', name='Answers to ? — borders → France').wait_for()
    page.get_by_label('Answers', exact=True).first.fill('3')
    page.get_by_role('button', name='Ask').click()
    page.locator('#answers tbody tr').nth(3).wait_for(state='detached')
    assert asked(page) == {'entity': ['France'], 'relation': ['borders'], 'side': ['head'],
                           'top': ['3'], 'known': ['false']}
    link = page.locator('#answers tbody a').first
    name = link.inner_text()
    link.click()  # Asks back.
    page.get_by_role('heading', name=f'Answers to {name} — borders → ?').wait_for()


def test_an_error_is_shown(visit, addresses):
    page = visit(question=QUESTION)
    page.locator('#entity').fill('Frnce')
    page.keyboard.press('Enter')
    page.locator('#problem', has_text="Unknown entity 'Frnce'").wait_for()
    assert "did you mean 'France'" in page.locator('#problem').inner_text()
    assert not page.locator('#answers').is_visible()
    page.locator('#entity').fill('France')
    page.keyboard.press('Enter')
    page.locator('#answers').wait_for()
    assert page.locator('#problem').inner_text() == ''
    # The browser itself tells of the answer 404, and of nothing else:
    assert len(page.said) == 1
    assert '404 (Not Found)' in page.said.pop()


def test_examples_lead_to_answers(visit):
    page = visit()
    link = page.locator('#question a').first
    name = link.inner_text()
    link.click()
    page.get_by_role('heading', name=f'Answers to {name}').wait_for()


@pytest.mark.parametrize('name, question', [('page', None), ('page', SWITCHED),
                                            ('structure', QUESTION), ('markup', SCRIPT)])
def test_nothing_but_wide_tables_scrolls_sideways(name, question, visit):
    for width in WIDTHS:
        page = visit(name, question, width)
        assert page.evaluate('document.documentElement.scrollWidth') == width
        outside = page.evaluate('''() => [...document.querySelectorAll('main *')].filter(
            e => e.getBoundingClientRect().right > innerWidth && !e.closest('.scroll')
        ).map(e => e.outerHTML.slice(0, 80))''')
        assert outside == []


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('question', [None, SWITCHED])
def test_axe_finds_nothing(question, scheme, visit):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright').Axe()
    for width in WIDTHS:
        page = visit('page', question, width, scheme)
        if question is None:  # With the list of choices open, too.
            page.locator('#entity').press_sequentially('fra')
            page.locator('#entity-choices [role="option"]').first.wait_for()
            page.keyboard.press('ArrowDown')
        found = axe.run(page).response
        assert [(v['id'], v['nodes'][0]['html'][:200]) for v in found['violations']] == []
        assert any(rule['id'] == 'color-contrast' for rule in found['passes'])


def test_what_has_the_focus_shows_it(visit):
    page = visit(question=SWITCHED)
    reached = []
    for _ in range(60):
        page.keyboard.press('Tab')
        element = page.evaluate('''() => {
            const e = document.activeElement, style = getComputedStyle(e);
            return [e.tagName, e.type ?? '', style.outlineStyle];
        }''')
        if element[0] == 'BODY':
            break
        reached.append(element)
    assert all(style != 'none' for _, _, style in reached)
    assert {'text', 'radio', 'number', 'checkbox', 'submit', 'range', 'button'} <= {
        kind for _, kind, _ in reached}
    assert [tag for tag, _, _ in reached].count('A') > 10


def test_structure_alone_has_no_sliders(visit):
    page = visit('structure', QUESTION)
    assert page.get_by_role('slider').count() == 0
    assert len(answers(page)) == 10


def test_markup_in_labels_is_text(visit):
    page = visit('markup', SCRIPT)
    assert page.locator('#asked-title').inner_text() == SCRIPT['entity']
    assert page.locator('b, main script, img[onerror], main style').count() == 0
    page.get_by_text('A story of <script>alert(1)</script>').first.wait_for()
    page.locator('#entity').fill('')
    page.locator('#entity').press('ArrowDown')
    page.locator('#entity-choices [role="option"]', has_text='onmouseover').wait_for()
    assert page.locator('[onmouseover]').count() == 0


def test_a_script_would_not_run(visit):
    # If a label were not taken for text, the policy of the page would still hold.
    page = visit()
    page.evaluate('''() => {
        document.querySelector('main').insertAdjacentHTML(
            'beforeend', '<img src="data:," onerror="document.title = 1">');
        const script = document.createElement('script');
        script.textContent = 'document.title = 2';
        document.body.append(script);
    }''')
    page.wait_for_timeout(100)
    assert page.title() == 'mocme on atlas'
    assert len(page.said) == 2
    assert all('Content Security Policy' in text for text in page.said)
    page.said.clear()
