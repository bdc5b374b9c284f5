"""CSV files such as a user has, with their recipe and suite; the same files for the same seed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

__all__ = ["write_workload"]

START = 1_704_067_200  # 2024-01-01, in seconds since 1970
DAYS = 120
EVENTS = ["view", "cart", "purchase"]
SHARES = [0.80, 0.12, 0.08]

RECIPE = """\
source: tables
source_config:
  interactions:
    files: [interactions.csv]
    columns: {member_id: user_id, entity_id: item_id, action: event, timestamp: time}
    constants: {surface: shop}
    time_format: iso8601
  entities:
    files: [items.csv]
    columns: {entity_id: item_id}
    constants: {entity_type: product}
    fields: {title: title, category: category, brand: brand, price: price}
  members:
    files: [users.csv]
    columns: {member_id: user_id}
    profile: {age: age, city: city}
suite: suite
split: {train_share: 0.9}
tokenizer: {vocabulary_size: 4000}
prompt: {context_length: 1024}
pairs: 2000
"""
SUITE = """\
name: shop
format_version: 3
profile:
  fields: [age, city]
  phrases: ["age {{ age }}", "in {{ city }}"]
entities:
  product:
    fields: [title, category, brand, price]
    phrases: ["{{ title }}", "{{ category }}", "by {{ brand }}", "{{ price }} EUR"]
surfaces:
  - name: shop
    entity_type: product
    question: ["product"]
    actions:
      - {name: view, label: view}
      - {name: cart, label: cart}
      - {name: purchase, label: purchase}
"""
TASK = """\
name: buy
surface: shop
instruction: Predict what the member does with each product.
positive: [purchase]
history: {surfaces: [shop]}
"""
WORDS = [
    *("oak", "steel", "linen", "cotton", "velvet", "marble", "copper", "glass", "maple", "wool"),
    *("chair", "lamp", "table", "shelf", "sofa", "desk", "rug", "vase", "clock", "mirror"),
    *("small", "large", "classic", "modern", "garden", "kitchen", "office", "travel", "outdoor", "indoor"),
]


def write_workload(folder: Path, *, members: int, entities: int, interactions: int, seed: int = 0) -> Path:
    """Write `users.csv`, `items.csv`, `interactions.csv`, `recipe.yaml` and `suite/`, and return the recipe.

    Entities have a Zipf-like share, members a log-normal activity. One interaction in 10,000 has no time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite" / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "suite" / "suite.yaml").write_text(SUITE)
    (folder / "suite" / "tasks" / "buy.yaml").write_text(TASK)
    random = np.random.default_rng(seed)
    words = np.array(WORDS)
    titles = [" ".join(row) for row in words[random.integers(len(words), size=(entities, 4))]]
    items = pa.table(
        {
            "item_id": pa.array([f"i{number:06d}" for number in range(entities)]),
            "title": titles,
            "category": words[random.integers(10, 20, size=entities)],
            "brand": words[random.integers(0, 10, size=entities)],
            "price": np.round(random.lognormal(3, 1, size=entities), 2),
        }
    )
    users = pa.table(
        {
            "user_id": pa.array([f"u{number:06d}" for number in range(members)]),
            "age": random.integers(18, 80, size=members),
            "city": words[random.integers(len(words), size=members)],
        }
    )
    popularity = 1 / np.arange(1, entities + 1) ** 0.8
    activity = random.lognormal(0, 1, size=members)
    seconds = np.sort(random.integers(0, DAYS * 86_400, size=interactions)) + START
    times = pc.strftime(pa.array(seconds, pa.timestamp("s")), format="%Y-%m-%dT%H:%M:%SZ")
    lost = pa.array(random.random(interactions) < 1e-4)
    rows = pa.table(
        {
            "user_id": users["user_id"].take(
                pa.array(random.choice(members, interactions, p=activity / activity.sum()))
            ),
            "item_id": items["item_id"].take(
                pa.array(random.choice(entities, interactions, p=popularity / popularity.sum()))
            ),
            "event": pa.array(EVENTS).take(pa.array(random.choice(len(EVENTS), interactions, p=SHARES))),
            "time": pc.if_else(lost, "", times),
        }
    )
    for name, table in (("users", users), ("items", items), ("interactions", rows)):
        csv.write_csv(table, folder / f"{name}.csv", csv.WriteOptions(quoting_style="needed"))
    return folder / "recipe.yaml"
