"""The tables of a fixed seed never change, because recorded results depend on them."""

import hashlib
import json

from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate

DIGEST = "6f87abd07a48fb5066903e497da303372bbba876be57d4eb6a4ed76959b9099b"  # of every row and every type


def test_tables_of_a_fixed_seed_are_bitwise_unchanged() -> None:
    tables = generate(SyntheticConfig(members=20, jobs=15, posts=15, interactions_per_member=20.0))
    sha = hashlib.sha256()
    for name in ["members", "entities", "interactions", "oracle"]:
        table = getattr(tables, name)
        sha.update(json.dumps([name, str(table.schema), table.to_pylist()], default=str).encode())
    assert sha.hexdigest() == DIGEST
