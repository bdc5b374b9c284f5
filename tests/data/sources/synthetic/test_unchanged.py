"""The tables of a fixed seed never change, because recorded results depend on them."""

import hashlib
import json

from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate

DIGEST = "b4fcec2e6d0b8d04e2826c38cf98562b5621c64f385bfc774d7b968104904314"  # of every row and every type


def test_tables_of_a_fixed_seed_are_bitwise_unchanged() -> None:
    tables = generate(SyntheticConfig(members=20, jobs=15, posts=15, interactions_per_member=20.0))
    sha = hashlib.sha256()
    for name in ["members", "entities", "interactions", "oracle"]:
        table = getattr(tables, name)
        sha.update(json.dumps([name, str(table.schema), table.to_pylist()], default=str).encode())
    assert sha.hexdigest() == DIGEST
