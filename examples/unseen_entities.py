r"""Countries that training never saw: MoCME ranks their facts from flag, outline, text and numbers.

    python examples/unseen_entities.py            # minutes
    python examples/unseen_entities.py --smoke    # seconds
"""
import argparse

from pyg_mmkgc.data import add_entities, modality_dicts, seen_entities
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.evaluation import evaluate, fit_temperature, predict
from pyg_mmkgc.training import Fit, find_recipe

parser = argparse.ArgumentParser()
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--smoke', action='store_true', help='a tiny model, one epoch')
args = parser.parse_args()

atlas = Atlas()
data = atlas[0]
models = {}
for name in ('mocme', 'nearest'):
    overrides = {'train.seed': args.seed}
    if args.smoke:
        overrides |= {'train.epochs': 1}
        overrides |= {'hidden_channels': 8} if name == 'mocme' else {}
    fit = Fit(find_recipe(name, 'atlas').override(overrides), data, log=not args.smoke)
    fit()
    models[name] = fit.model
    metrics = evaluate(fit.model, data, 'inductive_test').metrics()
    print(f'{name}: MRR {metrics["mrr"]:.3f}, Hits@10 {metrics["hits@10"]:.3f} on unseen countries')
model = models['mocme']
temperature = fit_temperature(model, data, 'val')

# One that the graph holds without any training fact, once more as if it came from outside:
country = int((~seen_entities(data)).nonzero()[0])
label = data['entity'].label[country]
x_dict, mask_dict = modality_dicts(data)
features = {m: x[country] for m, x in x_dict.items() if bool(mask_dict[m][country])}
for relation in ('in_subregion', 'borders', 'uses_currency'):
    answers = predict(model, data, head=f'Like {label}', relation=relation, features=features,
                      temperature=temperature, top=3)
    shown = [f'{a["entity"]} ({a["probability"]:.2f})' for a in answers]
    print(f'Like {label} --{relation}--> {", ".join(shown)}')

# One that nobody has heard of, by numbers alone; as head, and as an answer:
numbers = {'latitude': 49.8, 'longitude': 15.5, 'area': 50000, 'population': 5e6}
features = atlas.encode_entity({'numeric': numbers})
answers = predict(model, data, head='Ruritania', relation='borders', features=features, top=3,
                  temperature=temperature)
print(f'Ruritania --borders--> {", ".join(a["entity"] for a in answers)}')
larger = add_entities(data, ['Ruritania'], features)
answers = predict(model.extend(larger), larger, head='Germany', relation='borders', top=2000,
                  candidates='all', exclude=['train', 'val', 'test'])
rank = [a['entity'] for a in answers].index('Ruritania') + 1
print(f'Germany --borders--> Ruritania: rank {rank} of {len(answers)}')
