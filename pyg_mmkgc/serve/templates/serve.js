// The page: what is asked stands in the address, what labels say goes in as text only.
'use strict';

const find = id => document.getElementById(id);
const form = find('question');
const sliders = [...document.querySelectorAll('.slider')];
const WAIT = 120;  // Milliseconds after a key, so that not each of them asks.
const OFF_EVERYWHERE = 0, OFF_HERE = 1, ON = 2;

function make(tag, text = '', attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function get(address, signal) {
  const response = await fetch(address, {signal});
  if (response.ok) return response.json();
  const {detail} = await response.json().catch(() => ({detail: response.statusText}));
  throw new Error(detail);
}

// Whatever is asked last is shown, and what was asked before is given up.
function latest(ask) {
  let controller = new AbortController();
  return async (...values) => {
    controller.abort();
    controller = new AbortController();
    const {signal} = controller;
    try {
      await ask(signal, ...values);
    } catch (error) {
      if (!signal.aborted) find('problem').textContent = error.message;
    }
  };
}

// Completion ///////////////////////////////////////////////////////////////////////////////////

function complete(input, address) {
  const list = find(`${input.id}-choices`);
  let active = -1, timer = 0;

  function close() {
    clearTimeout(timer);
    list.hidden = true;
    active = -1;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  }

  function activate(index) {
    const options = list.children;
    if (active >= 0) options[active].setAttribute('aria-selected', 'false');
    active = (index + options.length) % options.length;
    options[active].setAttribute('aria-selected', 'true');
    options[active].scrollIntoView({block: 'nearest'});
    input.setAttribute('aria-activedescendant', options[active].id);
  }

  function choose(option) {
    input.value = option.textContent;
    close();
    ask();
  }

  const open = latest(async signal => {
    const query = new URLSearchParams({query: input.value.slice(0, 200)});
    const choices = await get(`${address}?${query}`, signal);
    if (document.activeElement !== input) return;
    close();
    list.replaceChildren(...choices.map((choice, i) => make('li', choice.label, {
      role: 'option', id: `${list.id}-${i}`, 'aria-selected': 'false'})));
    list.hidden = choices.length === 0;
    input.setAttribute('aria-expanded', String(choices.length > 0));
  });

  input.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(open, WAIT);
  });
  input.addEventListener('blur', close);
  input.addEventListener('keydown', event => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      const step = event.key === 'ArrowDown' ? 1 : -1;
      if (list.hidden) open();
      else activate(active < 0 && step < 0 ? -1 : active + step);
    } else if (event.key === 'Enter' && active >= 0) {
      event.preventDefault();
      choose(list.children[active]);
    } else if (event.key === 'Escape' && !list.hidden) {
      event.preventDefault();
      close();
    }
  });
  list.addEventListener('mousedown', event => {
    event.preventDefault();  // The text keeps the focus.
    const option = event.target.closest('[role="option"]');
    if (option) choose(option);
  });
}

// Entities /////////////////////////////////////////////////////////////////////////////////////

const entities = new Map();

function entity(id) {
  if (!entities.has(id)) {
    const found = get(`api/entities/${id}`);
    found.catch(() => entities.delete(id));
    entities.set(id, found);
  }
  return entities.get(id);
}

function illustrations({label, pictures}) {
  const out = document.createDocumentFragment();
  const names = Object.keys(pictures);
  if (names.length > 0) {
    const list = make('ul', '', {class: 'pictures'});
    for (const name of names) {
      const item = make('li'), figure = make('figure');
      figure.append(make('img', '', {src: pictures[name], alt: `${name} of ${label}`}),
                    make('figcaption', name));
      item.append(figure);
      list.append(item);
    }
    out.append(list);
  }
  return out;
}

function texts(shown) {
  return Object.entries(shown.texts).map(([name, text]) => `${spaced(name)}: ${text}`);
}

function numbers(shown) {
  return Object.entries(shown.numbers).map(
    ([name, value]) => `${spaced(name)} ${value.toLocaleString('en')}`);
}

function spaced(name) {
  return name.replaceAll('_', ' ');
}

function paragraph(tag, parts, length) {
  const text = parts.join('; ');
  return make(tag, text.length <= length ? text : `${text.slice(0, length)}…`, {class: 'soft'});
}

// Questions ////////////////////////////////////////////////////////////////////////////////////

function question() {
  const values = new FormData(form), out = new URLSearchParams();
  for (const name of ['entity', 'relation']) out.set(name, values.get(name).trim());
  if (values.get('side') === 'head') out.set('side', 'head');
  if (values.get('top') !== '10') out.set('top', values.get('top'));
  if (values.get('hide')) out.set('known', 'false');
  for (const slider of sliders) {
    const position = Number(slider.querySelector('input').value);
    if (position === OFF_EVERYWHERE) out.append('without', slider.dataset.modality);
    if (position === OFF_HERE) out.append('without_query', slider.dataset.modality);
  }
  return out;
}

function restore(asked) {
  form.elements.entity.value = asked.get('entity') ?? '';
  form.elements.relation.value = asked.get('relation') ?? '';
  form.elements.side.value = asked.get('side') === 'head' ? 'head' : 'tail';
  form.elements.top.value = asked.get('top') ?? '10';
  form.elements.hide.checked = asked.get('known') === 'false';
  for (const slider of sliders) {
    const {modality} = slider.dataset;
    slider.querySelector('input').value = asked.getAll('without').includes(modality)
      ? OFF_EVERYWHERE : asked.getAll('without_query').includes(modality) ? OFF_HERE : ON;
  }
}

function describeSliders() {
  const label = form.elements.entity.value.trim() || 'the entity asked about';
  for (const slider of sliders) {
    const input = slider.querySelector('input');
    const text = ['off for all', `off for ${label}`, 'on'][Number(input.value)];
    input.setAttribute('aria-valuetext', text);
    slider.querySelector('.state').textContent = text;
    slider.classList.toggle('off', Number(input.value) !== ON);
  }
}

function showWeights(weights, there) {
  for (const slider of sliders) {
    const {modality} = slider.dataset, weight = weights?.[modality];
    const has = there.includes(modality);
    slider.querySelector('.bar').style.setProperty('--share', weight ?? 0);
    slider.querySelector('.weight').textContent =
      !has ? 'not there' : weight === undefined ? '' : weight.toFixed(2);
  }
}

function words(asked, label) {
  return asked.get('side') === 'head'
    ? `? — ${label.relation} → ${label.entity}` : `${label.entity} — ${label.relation} → ?`;
}

function probability(value) {
  return value >= 0.0005 ? value.toFixed(3) : value === 0 ? '0' : value.toExponential(0);
}

function showAnswers(asked, found) {
  const switched = asked.has('without') || asked.has('without_query');
  const labels = {entity: found.entity.label, relation: found.relation.label};
  const title = words(asked, labels);
  const modalities = found.answers[0]?.modality_weights
    ? Object.keys(found.answers[0].modality_weights) : [];
  find('answers-title').textContent = `Answers to ${title}`;
  document.title = title;
  const notes = [found.calibrated ? 'Probabilities are calibrated on validation.'
                                  : 'Probabilities are not calibrated.'];
  if (switched) notes.push('“With all” is the rank with nothing switched off.');
  if (asked.getAll('without').length === sliders.length && switched)
    notes.push('With everything switched off, what is left is a guess.');
  find('notes').textContent = notes.join(' ');
  const table = find('answers').querySelector('table');
  table.caption.textContent = modalities.length > 0
    ? 'Best first; columns of modalities are their shares in the answer as a candidate.'
    : 'Best first.';
  const head = make('tr');
  head.append(make('th', 'rank', {scope: 'col'}));
  if (switched) head.append(make('th', 'with all', {scope: 'col'}));
  head.append(make('th', 'answer', {scope: 'col', class: 'left'}),
              make('th', 'known', {scope: 'col', class: 'left'}),
              make('th', 'probability', {scope: 'col'}), make('th', 'score', {scope: 'col'}),
              ...modalities.map(name => make('th', name, {scope: 'col'})));
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...found.answers.map(answer => {
    const row = make('tr'), name = make('th', '', {scope: 'row'});
    const box = make('div', '', {class: 'answer'});
    const back = new URLSearchParams({entity: answer.label, relation: labels.relation});
    if (asked.get('side') !== 'head') back.set('side', 'head');
    box.append(make('a', answer.label, {href: `?${back}`}));
    name.append(box);
    row.append(make('td', String(answer.rank)));
    if (switched) row.append(make('td', String(answer.rank_with_all ?? 'over 100')));
    row.append(name, make('td', answer.known ?? 'not known',
                          {class: answer.known === 'new' ? 'left new' : 'left'}),
               make('td', probability(answer.probability)), make('td', answer.score.toFixed(2)));
    for (const modality of modalities) {
      const weight = answer.modality_weights[modality];
      const cell = make('td', weight.toFixed(2), {class: 'heat'});
      cell.style.setProperty('--share', weight);
      row.append(cell);
    }
    entity(answer.id).then(
      shown => box.append(illustrations(shown), paragraph('span', texts(shown), 80)), () => {});
    return row;
  }));
  find('answers').hidden = false;
  find('status').textContent = `${found.answers.length} answers to ${title}`;
}

const ask = latest(async signal => {
  describeSliders();
  const asked = question();
  if (!asked.get('entity') || !asked.get('relation')) return;
  history.replaceState(null, '', `?${asked}`);
  find('problem').textContent = '';
  find('answers').setAttribute('aria-busy', 'true');
  try {
    const found = await get(`api/predict?${asked}`, signal);
    const shown = await entity(found.entity.id);
    if (signal.aborted) return;
    find('asked-title').textContent = shown.label;
    find('asked-contents').replaceChildren(
      illustrations(shown), paragraph('p', texts(shown), 600), paragraph('p', numbers(shown), 600));
    find('asked').hidden = false;
    showWeights(found.modality_weights, shown.modalities);
    showAnswers(asked, found);
  } catch (error) {
    if (!signal.aborted) {
      find('asked').hidden = find('answers').hidden = true;
      find('status').textContent = '';
    }
    throw error;
  } finally {
    if (!signal.aborted) find('answers').removeAttribute('aria-busy');
  }
});

complete(form.elements.entity, 'api/entities');
complete(form.elements.relation, 'api/relations');
form.addEventListener('submit', event => {
  event.preventDefault();
  ask();
});
form.addEventListener('change', event => {
  if (event.target.type !== 'text' && form.checkValidity()) ask();
});
for (const slider of sliders) slider.querySelector('input').addEventListener('input', () => ask());
find('all-on')?.addEventListener('click', () => {
  for (const slider of sliders) slider.querySelector('input').value = ON;
  ask();
});
restore(new URLSearchParams(location.search));
ask();
