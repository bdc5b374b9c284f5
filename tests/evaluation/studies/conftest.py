"""A small data folder of movie ratings, and an engine that answers by a rule instead of a model."""

import math
from collections.abc import AsyncGenerator, Callable, Sequence

import pyarrow as pa
import pytest

from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.packed_bins.schema import assemble_bins, finish_plan, write_bins
from brew_data.pipelines.documents import document_table
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import train_tokenizer
from brew_data.records import Records
from brew_data.schema import TIMESTAMP, Tables, write_tables
from brew_data.split import Split
from brew_eval.studies.probe import ProbedModel
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared

MOVIES = ["Heat", "Alien", "Fargo", "Casino", "Brazil", "Rope", "Vertigo", "Psycho"]
GENRES = ["crime", "horror", "comedy", "drama"]
MEMBERS, RATINGS = 4, 8


def make_tables() -> Tables:
    rows = [(member, (member + n) % len(MOVIES), n) for n in range(RATINGS) for member in range(MEMBERS)]
    members = [{"age": str(20 + m), "gender": "F", "occupation": "writer"} for m in range(MEMBERS)]
    movies = [{"title": title, "genres": GENRES[n % len(GENRES)]} for n, title in enumerate(MOVIES)]
    return Tables(
        members=pa.table(
            {
                "member_id": [f"u{m}" for m in range(MEMBERS)],
                "profile": members,
                "locale": ["en"] * MEMBERS,
                "opted_out": [False] * MEMBERS,
            }
        ),
        entities=pa.table(
            {
                "entity_id": MOVIES,
                "entity_type": ["movie"] * len(MOVIES),
                "created_at": pa.array([0] * len(MOVIES), TIMESTAMP),
                "fields": movies,
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": pa.array(range(len(rows)), pa.int64()),
                "member_id": [f"u{member}" for member, _, _ in rows],
                "entity_id": [MOVIES[movie] for _, movie, _ in rows],
                "surface": ["ratings"] * len(rows),
                "action": [f"rated_{(member + n) % 5 + 1}" for member, _, n in rows],
                "timestamp": pa.array([1_000_000 * (n + 1) for _, _, n in rows], pa.int64()).cast(TIMESTAMP),
            }
        ),
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """Ratings of four members. `bins` has the documents of the first two, `evaluation` those of the others."""
    folder = tmp_path_factory.mktemp("ratings")
    tables = make_tables()
    write_tables(tables, folder / "tables")
    bundle = PromptBundle(
        suite=load_suite("movielens"),
        format=PromptFormat(context_length=512, head_tokens=64, question_tokens=32),
        tokenizer=train_tokenizer([*MOVIES, *GENRES, "Predict how many stars"], vocabulary_size=300),
    )
    bundle.save(folder / "prompts")
    records = Records(tables)
    for name, first in (("bins", 0), ("evaluation", 2)):
        members = list(records.members(tables.interactions))[first : first + 2]
        documents = [d for m in members for d in bundle.compiler().documents(m.profile, m.history)]
        table = document_table((str(number), document) for number, document in enumerate(documents))
        (folder / name).mkdir()
        bins = assemble_bins(table, [[number] for number in range(len(documents))])
        row = write_bins(bins, folder / name / "bins-000000.parquet", first_bin=0)
        finish_plan(
            [{"file": 0} | row], n_bins=len(documents), n_documents=len(documents), context_length=512,
            vocabulary_size=bundle.tokenizer.vocabulary_size, prompt_digest=bundle.digest,
        ).write(folder / name)  # fmt: skip
    info = DatasetInfo(
        source="tables", split=Split(train_until=4_000_000, until=9_000_000), has_true_probabilities=False,
        config_digest="c" * 64, prompt_digest=bundle.digest, commit="d" * 40,
    )  # fmt: skip
    info.write(folder)
    return DataFolder.open(folder)


Rule = Callable[[Sequence[int]], int]


class RuleEngine:
    """An engine whose next token is a function of the prompt, with probability .9; all others are equally likely."""

    def __init__(self, rule: Rule, vocabulary_size: int) -> None:
        self.rule, self.vocabulary_size = rule, vocabulary_size
        self.usage = EngineUsage()

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        likeliest = self.rule(prompt)
        return [math.log(0.9 if id_ == likeliest else 0.1 / self.vocabulary_size) for id_ in token_ids]

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        ids = list(prompt)
        for _ in range(sampling.max_tokens):
            id_ = self.rule(ids)
            if id_ in sampling.stop_ids:
                return
            ids.append(id_)
            yield GeneratedToken(id=id_, logprob=math.log(0.9))

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def probed(data: DataFolder) -> Callable[[Rule], ProbedModel]:
    """Return a function that makes a model of a rule."""
    compiler = data.bundle().compiler()

    def make(rule: Rule) -> ProbedModel:
        engine = RuleEngine(rule, compiler.tokenizer.vocabulary_size)
        tokenizer = compiler.tokenizer
        stop = (tokenizer.end, tokenizer.user, tokenizer.assistant)
        return ProbedModel(engine=engine, compiler=compiler, data=data, stop_ids=stop)

    return make
