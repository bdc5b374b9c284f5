"""The token ids that the shipped suites produce do not change: tokenizer, documents, requests and preference pairs."""

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from brew_data.corpora.preferences import pairs_from_interactions
from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.pipelines.documents import compile_documents
from brew_data.pipelines.member_groups import compiler_spec, load_compiler
from brew_data.pipelines.requests import compile_requests
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.records import Records
from brew_data.schema import ENTITIES, INTERACTIONS, TIMESTAMP, Tables, micros, write_tables
from brew_data.split import Split

WORDS = ["nurse", "welder", "clerk", "senior", "junior", "berlin", "health", "software", "care"]
WORDS += ["law", "steel", "video", "ada", "acme", "bolt", "night"]
SURFACES = {
    "economic_graph": {
        "jobs": ("job", ["apply", "skip"]),
        "feed": ("post", ["like", "skip"]),
        "notifications": ("post", ["open", "dismiss"]),
    },
    "movielens": {"ratings": ("movie", [f"rated_{n}" for n in range(1, 6)])},
}
FIELDS = {
    "profile": ["industry", "title", "seniority", "location", "skills", "age", "gender", "occupation"],
    "job": ["industry", "title", "seniority", "location", "skills", "company", "applicants"],
    "post": ["topic", "format", "author", "industry", "followers"],
    "movie": ["title", "genres"],
}
COLUMNS = ["document", "length", "ids", "roles"]
# SHA-256 of the token ids. "movielens" was computed before surfaces and tasks became two things. The requests of
# "economic_graph" changed once since: when the hop of a history was counted in tokens instead of turns.
GOLDEN = {
    "economic_graph": "f41aaa5b1c68c2405f91316bc530b63142c31fdb2d78b511cd862f38f522e0d6",
    "economic_graph_chat": "7c6d954b7629f8e07f146c761e6fd1394f9af02200f1b40f2cdd798159a33ffb",
    "movielens": "ce436302b0c0cabc1f59827b6b753ae156d88abbd40274f8189315dea54d5592",
    "movielens_chat": "5bc3a871f4f78d533acaf4b07cfb73a875a5fa2e07ecb3ff14852ac07628f8a7",
}


def make_tables(name: str) -> Tables:
    """Small deterministic tables: 8 members, 30 entities per type, 40 interactions per member, some at equal times."""
    suite = name.removesuffix("_chat")  # both forms of a suite read the same tables
    draw = random.Random(suite)
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def fields(names: list[str]) -> dict[str, str | None]:
        return {
            name: ", ".join(draw.choices(WORDS, k=draw.randint(1, 3))) if draw.random() < 0.9 else None
            for name in names
        }

    kinds = sorted({kind for kind, _ in SURFACES[suite].values()})
    every_field = sorted({name for kind in kinds for name in FIELDS[kind]})
    members = [
        {"member_id": f"m{i}", "profile": fields(FIELDS["profile"]), "locale": "en", "opted_out": i == 7}
        for i in range(8)
    ]
    entities = [
        {
            "entity_id": f"{kind}{i}",
            "entity_type": kind,
            "created_at": start,
            "fields": dict.fromkeys(every_field) | fields(FIELDS[kind]),
        }
        for kind in kinds
        for i in range(30)
    ]
    interactions = []
    for i in range(320):
        surface = draw.choice(sorted(SURFACES[suite]))
        kind, actions = SURFACES[suite][surface]
        interactions.append(
            {
                "interaction_id": i,
                "member_id": f"m{draw.randrange(8)}",
                "entity_id": f"{kind}{draw.randrange(30)}",
                "surface": surface,
                "action": draw.choice(actions),
                "timestamp": start + timedelta(hours=i // 3),
            }
        )
    text = pa.string()
    return Tables(
        members=pa.Table.from_pylist(
            members,
            pa.schema(
                {
                    "member_id": text,
                    "profile": pa.struct(dict.fromkeys(FIELDS["profile"], text).items()),
                    "locale": text,
                    "opted_out": pa.bool_(),
                }
            ),
        ),
        entities=pa.Table.from_pylist(
            entities,
            pa.schema(
                ENTITIES | {"created_at": TIMESTAMP, "fields": pa.struct(dict.fromkeys(every_field, text).items())}
            ),
        ),
        interactions=pa.Table.from_pylist(interactions, pa.schema(INTERACTIONS)),
    )


def token_digest(name: str, folder: Path) -> str:
    """SHA-256 over the tokenizer and the token ids of every document, request and preference pair."""
    tables = make_tables(name)
    write_tables(tables, folder)
    suite = load_suite(name)
    times = micros(tables.interactions)
    split = Split(train_until=times[200].as_py(), until=times[-1].as_py())
    tokenizer = corpus_tokenizer(folder, suite, split, 420)
    if name.endswith("_chat"):
        budget = PromptFormat(context_length=1024, head_tokens=448, question_tokens=80)
    else:
        budget = PromptFormat(context_length=512, head_tokens=96, question_tokens=48)
    compiler = PromptCompiler(suite, tokenizer, budget)
    compiler = load_compiler(compiler_spec(compiler))
    records = Records(tables)
    sha = hashlib.sha256(tokenizer.to_json().encode())
    for member in tables.members["member_id"].to_pylist():
        rows = tables.interactions.filter(pc.equal(tables.interactions["member_id"], member))
        trained = rows.filter(pc.less_equal(micros(rows), split.train_until))
        documents = compile_documents(records.members(trained), compiler).select(COLUMNS)
        requests = compile_requests(records.members(rows), compiler, after=split.train_until)
        sha.update(json.dumps([documents.to_pylist(), requests.to_pylist()]).encode())
    for pair in pairs_from_interactions(tables, compiler, split, count=60, seed=3):
        sha.update(
            json.dumps([pair.prompt.tolist(), pair.chosen.tolist(), pair.rejected.tolist(), pair.origin]).encode()
        )
    return sha.hexdigest()


@pytest.mark.parametrize("name", GOLDEN)
def test_token_ids_of_shipped_suites_are_unchanged(name: str, tmp_path: Path) -> None:
    assert token_digest(name, tmp_path) == GOLDEN[name]
