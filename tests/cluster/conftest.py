"""A small data folder that the tests of jobs and commands share."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from brew_cluster.jobs.dataset_card import dataset_card, write_card
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.packed_bins.plan import BinsPlan
from brew_data.packed_bins.schema import assemble_bins, finish_plan, write_bins
from brew_data.pipelines.documents import document_table
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import Document, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import train_tokenizer
from brew_data.records import Records
from brew_data.schema import TIMESTAMP, Tables, write_tables
from brew_data.sources.quarantine import Quarantine
from brew_data.split import Split, SplitConfig

from .tiny_version import write_tiny_version

# entity, surface, action; the time of a row is its number, in seconds
ROWS = [
    ("lamp", "shop", "viewed"),
    ("news", "mail", "opened"),
    ("chair", "shop", "bought"),
    ("lamp", "shop", "bought"),
    ("sofa", "shop", "viewed"),
    ("desk", "shop", "viewed"),
]
TITLES = {"lamp": "Lamp", "chair": "Oak chair", "sofa": f"Sofa {'of soft red velvet ' * 8}", "desk": "D\u00e9sk [/]"}
SECOND = 1_000_000  # microseconds


def make_suite() -> TaskSuite:
    """Two surfaces; a task with each kind of history."""
    shop = Surface(
        name="shop", entity_type="product", question=["product"],
        actions=[Action(name="bought", label="bought"), Action(name="viewed", label="viewed only")],
    )  # fmt: skip
    mail = Surface(
        name="mail", entity_type="letter", question=["letter"],
        actions=[Action(name="opened", label="opened"), Action(name="deleted", label="deleted")],
    )  # fmt: skip
    in_turn = HistoryPolicy(surfaces=["shop"], name="round_robin", deduplicate=True, keep={"viewed": 0.0})
    return TaskSuite(
        name="shop",
        profile=RecordTemplate(fields=["city"], phrases=["{{ city }}"]),
        entities={
            "product": RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
            "letter": RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
        },
        surfaces=[shop, mail],
        tasks=[
            TaskSpec(
                name="buy", surface="shop", instruction="Predict: {{ labels }}.", positive=["bought"],
                history=HistoryPolicy(surfaces=["shop"]),
            ),
            TaskSpec(
                name="buy_again", surface="shop", instruction="Predict.", positive=["bought"], history=in_turn,
                in_training=False,
            ),
        ],
    )  # fmt: skip


def make_tables() -> Tables:
    """One member with `ROWS`, and one who opted out."""
    return Tables(
        members=pa.table(
            {
                "member_id": ["ada", "ben"],
                "profile": [{"city": "Berlin"}, {"city": "Rome"}],
                "locale": ["en", "en"],
                "opted_out": [False, True],
            }
        ),
        entities=pa.table(
            {
                "entity_id": [*TITLES, "news"],
                "entity_type": [*["product"] * len(TITLES), "letter"],
                "created_at": pa.array([0] * (len(TITLES) + 1), TIMESTAMP),
                "fields": [*({"title": title} for title in TITLES.values()), {"title": "News"}],
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": list(range(len(ROWS))),
                "member_id": ["ada"] * len(ROWS),
                "entity_id": [entity for entity, _, _ in ROWS],
                "surface": [surface for _, surface, _ in ROWS],
                "action": [action for _, _, action in ROWS],
                "timestamp": pa.array([number * SECOND for number in range(len(ROWS))], TIMESTAMP),
            }
        ),
    )


def pack_one_by_one(folder: Path, bundle: PromptBundle, documents: list[Document]) -> BinsPlan:
    """Write bins with one document each."""
    folder.mkdir()
    table = document_table((str(number), document) for number, document in enumerate(documents))
    bins = assemble_bins(table, [[number] for number in range(len(documents))])
    row = write_bins(bins, folder / "bins-000000.parquet", first_bin=0)
    plan = finish_plan(
        [{"file": 0} | row], n_bins=len(documents), n_documents=len(documents),
        context_length=bundle.format.context_length, vocabulary_size=bundle.tokenizer.vocabulary_size,
        prompt_digest=bundle.digest,
    )  # fmt: skip
    plan.write(folder)
    return plan


def build_folder(folder: Path, suite: TaskSuite, *, slates: bool = False) -> DataFolder:
    """Write a complete data folder; the cut is after the fourth row."""
    folder.mkdir()
    tables, split = make_tables(), Split(train_until=3 * SECOND, until=5 * SECOND)
    write_tables(tables, folder / "tables")
    bundle = PromptBundle(
        suite=suite,
        format=PromptFormat(context_length=256, head_tokens=48, question_tokens=32),
        tokenizer=train_tokenizer(["Oak chair bought", "viewed only"], vocabulary_size=280),
    )
    bundle.save(folder / "prompts")
    config = DatasetConfig(
        source="tables", suite="shop", split=SplitConfig(train_share=0.5), prompt=bundle.format, slates=slates
    )
    info = DatasetInfo(
        source="tables", split=split, has_true_probabilities=False, config_digest="c" * 64,
        prompt_digest=bundle.digest, commit="d" * 40,
    )  # fmt: skip
    records, rows = Records(tables), tables.interactions.slice(0, 4)
    documents = bundle.compiler().documents(records.profiles["ada"], records.history(rows), slates=slates)
    plan = pack_one_by_one(folder / "bins", bundle, documents)
    card = dataset_card(
        config, folder, inputs=[], suite=bundle.suite, split=split, quarantine=Quarantine(), removed={},
        prompt_digest=bundle.digest, plans={"bins": plan}, seconds={},
    )  # fmt: skip
    write_card(card, folder)
    info.write(folder)
    return DataFolder.open(folder)


@pytest.fixture(scope="session")
def built_folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """A complete data folder. Tests must not change it."""
    return build_folder(tmp_path_factory.mktemp("data") / "shop", make_suite())


@pytest.fixture(scope="session")
def tiny_export(built_folder: DataFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the prompts of `built_folder`, as training exports it. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models") / "export"
    write_tiny_version(built_folder.bundle(), folder)
    return folder


@pytest.fixture(scope="session")
def slate_folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """As `built_folder`, but the trained task has a question of its own, and its examples share a document."""
    suite = make_suite()
    task, *others = suite.tasks
    suite = replace(suite, tasks=[replace(task, question=["next product"]), *others])
    return build_folder(tmp_path_factory.mktemp("data") / "shop", suite, slates=True)
