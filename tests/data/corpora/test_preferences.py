"""Preference pairs: the file format and its errors, the bins, and pairs from interactions."""

import json
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_data.corpora.preference_file import Preference, read_preferences
from brew_data.corpora.preferences import Pair, build_pairs, compile_preference, pairs_from_interactions
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import CONTROL_TOKENS, Tokenizer
from brew_data.records import Records
from brew_data.schema import Tables, micros
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split
from brew_platform.errors import DataError, UserError
from brew_train.config import ModelShape
from brew_train.inputs.bin_reader import BinReader

ROWS = [
    {
        "prompt": "nurse in berlin?",
        "chosen": "yes",
        "rejected": "no, never",
        "instruction": "Answer.",
        "profile": "ada",
    },
    {"prompt": "é\n2", "chosen": "three", "rejected": "four"},
]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema({name: pa.string() for name in ROWS[0]})), path)
    return path


def pair(prompt: int, chosen: int, rejected: int, number: int = 0) -> Pair:
    """A pair of so many tokens; its own number is every token of it."""
    parts = {
        name: np.full(n, 6 + number) for name, n in [("prompt", prompt), ("chosen", chosen), ("rejected", rejected)]
    }
    return Pair(**parts, origin=f"pair {number}")


def test_a_row_becomes_two_chats_that_differ_in_their_answer(compiler: PromptCompiler, tmp_path: Path) -> None:
    plan = build_pairs(jsonl(tmp_path / "a.jsonl", ROWS), compiler, tmp_path / "bins")
    reader = BinReader(tmp_path / "bins", ModelShape(vocabulary_size=plan.vocabulary_size, context_length=512))
    assert (reader.kind, reader.n_bins, plan.n_pairs, plan.n_documents, plan.n_skipped) == ("pairs", 1, 2, 4, 0)
    assert json.loads((tmp_path / "bins" / "plan.json").read_text())["kind"] == "pairs"
    documents, answers = [], []
    start = 0
    for length in reader[0].doc_lengths:
        ids, roles = (column[start : start + length] for column in (reader[0].input_ids, reader[0].roles))
        documents.append(compiler.tokenizer.decode(ids))
        answers.append(compiler.tokenizer.decode(ids[roles == 1]))
        start += length
    first = "<|system|>Answer.<|member|>ada<|user|>nurse in berlin?<|assistant|>"
    second = "<|system|><|member|><|user|>é\n2<|assistant|>"
    assert documents == [
        f"{first}yes<|end|>",
        f"{first}no, never<|end|>",
        f"{second}three<|end|>",
        f"{second}four<|end|>",
    ]
    assert answers == ["yes<|end|>", "no, never<|end|>", "three<|end|>", "four<|end|>"]


def test_both_formats_give_the_same_bins(compiler: PromptCompiler, tmp_path: Path) -> None:
    rows = [{**row, "score": 4} for row in ROWS]  # an unknown column is ignored
    plans = [
        build_pairs(path, compiler, tmp_path / path.suffix)
        for path in (jsonl(tmp_path / "a.jsonl", rows), parquet(tmp_path / "a.parquet", rows))
    ]
    assert plans[0] == plans[1]


def test_the_documents_example_and_code_run(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "preferences.md").read_text()
    example, code = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("json", "python"))  # type: ignore[index]
    (tmp_path / "pairs.jsonl").write_text(example)
    prompts = PromptFormat(context_length=1024)
    bundle = PromptBundle(suite=load_suite("economic_graph"), format=prompts, tokenizer=tokenizer)
    bundle.save(tmp_path / "data" / "synthetic" / "prompts")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("2 0 ")


def test_rows_of_ultrafeedback_are_read(tmp_path: Path) -> None:
    def messages(answer: str, *first: dict[str, str]) -> list[dict[str, str]]:
        return [*first, {"role": "user", "content": "why?"}, {"role": "assistant", "content": answer}]

    rows = [{"prompt": "why?", "chosen": messages("so"), "rejected": messages("no"), "score_chosen": 8.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = Preference(prompt="why?", chosen="so", rejected="no", origin="")
    for path in (jsonl(tmp_path / "a.jsonl", rows), tmp_path / "a.parquet"):
        [found] = read_preferences(path)
        assert replace(found, origin="") == expected
    system = {"role": "system", "content": "Be short."}
    rows = [{"prompt": "", "chosen": messages("so", system), "rejected": messages("no", system)}]
    [found] = read_preferences(jsonl(tmp_path / "b.jsonl", rows))
    assert replace(found, origin="") == replace(expected, instruction="Be short.")


@given(st.text(max_size=30), st.sampled_from(CONTROL_TOKENS), st.text(max_size=10))
@settings(max_examples=50, deadline=None)
def test_no_text_can_forge_a_control_token(tokenizer: Tokenizer, before: str, token: str, after: str) -> None:
    evil = before + token + after
    encoded = compile_preference(
        Preference(prompt=evil, chosen=evil, rejected=evil, instruction=evil, profile=evil, origin=""), tokenizer
    )
    t = tokenizer
    control = [
        [i for i in ids.tolist() if i < len(CONTROL_TOKENS)]
        for ids in (encoded.prompt, encoded.chosen, encoded.rejected)
    ]
    assert control == [[t.system, t.member, t.user, t.assistant], [t.end], [t.end]]


@given(
    st.lists(st.tuples(*[st.integers(1, 20)] * 3), min_size=1, max_size=60),
    st.integers(1, 7),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pair_is_packed_once_side_by_side(
    compiler: PromptCompiler, tmp_path: Path, lengths: list[tuple[int, int, int]], bins_per_file: int
) -> None:
    pairs_in = [pair(*three, number) for number, three in enumerate(lengths)]
    compiler = PromptCompiler(
        compiler.suite, compiler.tokenizer, PromptFormat(context_length=160, head_tokens=76, question_tokens=16)
    )
    for old in tmp_path.glob("*"):
        old.unlink()
    seen: list[tuple[int, int]] = []
    plan = build_pairs(
        pairs_in,
        compiler,
        tmp_path,
        bins_per_file=bins_per_file,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (plan.n_bins, plan.n_bins)
    reader = BinReader(tmp_path, ModelShape(vocabulary_size=plan.vocabulary_size, context_length=160))
    found = {}
    for bin_id in range(reader.n_bins):
        bin_ = reader[bin_id]
        documents = np.split(np.arange(len(bin_.input_ids)), np.cumsum(bin_.doc_lengths)[:-1])
        for chosen, rejected in zip(documents[::2], documents[1::2], strict=True):
            number = set(bin_.input_ids[[*chosen, *rejected]].tolist())
            answers = [int(bin_.roles[side].sum()) for side in (chosen, rejected)]
            assert all((np.diff(bin_.roles[side].astype(int)) >= 0).all() for side in (chosen, rejected))
            assert len(chosen) - answers[0] == len(rejected) - answers[1]
            found[number.pop() - 6] = (len(chosen) - answers[0], *answers)
            assert not number
    assert found == dict(enumerate(lengths))
    assert (plan.n_pairs, plan.n_tokens) == (len(pairs_in), sum(p.length for p in pairs_in))


def test_a_pair_longer_than_a_bin_is_refused_or_left_out(compiler: PromptCompiler, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], "prompt": "nurse? " * 300}])
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: prompt and answers have \d+ tokens .* but a bin holds 512"):
        build_pairs(path, compiler, tmp_path / "bins")
    assert not (tmp_path / "bins").exists()
    plan = build_pairs(path, compiler, tmp_path / "bins", skip_long=True)
    assert (plan.n_pairs, plan.n_skipped) == (1, 1)
    with pytest.raises(UserError, match=r"contains no pair to train on \(1 were too long for a bin of 512 tokens\)"):
        build_pairs([pair(300, 1, 1)], compiler, tmp_path / "none", skip_long=True)
    assert build_pairs([pair(255, 1, 1)], compiler, tmp_path / "full").fill == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"prompt": "a", "chosen": "b"}', r"line 2 lacks rejected \(it has prompt, chosen\)"),
        (b"{}", "line 2 lacks prompt, chosen, rejected \\(it has nothing\\)"),
        (b'{"prompt": "a", "chosen": " \\n", "rejected": "c"}', "line 2: chosen is empty"),
        (b'{"prompt": null, "chosen": "b", "rejected": "c"}', "line 2: prompt is empty"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "line 2: chosen and rejected are the same text"),
        (b'{"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}', "line 2: prompt is of type list"),
        (
            b'{"prompt": "a", "chosen": [{"role": "user", "content": "a"}], "rejected": "c"}',
            "line 2: chosen is a list of messages with the roles user, but must have user and assistant",
        ),
        (
            b'{"prompt": "a", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], '
            b'"rejected": [{"role": "user", "content": "z"}, {"role": "assistant", "content": "c"}]}',
            "line 2: chosen and rejected have different messages before the answer",
        ),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c", "profile": 7}', "line 2: profile is of type int"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "\\ud83d"}', "line 2 is not JSON .half of a surrogate pair"),
        (b'{"prompt": "a", "prompt": "z", "chosen": "b", "rejected": "c"}', "the key 'prompt' occurs more than once"),
        (b'{"prompt": "a", "cho', "line 2 is not JSON"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'["a", "b", "c"]', "line 2 is a JSON list, not an object. Write one JSON object per line"),
        (b'{"prompt": "\xff", "chosen": "b", "rejected": "c"}', "line 2 is not UTF-8"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + text + b"\n")
    with pytest.raises(DataError, match=message):
        list(read_preferences(path))


def test_a_bad_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [ROWS[0], {**ROWS[1], "rejected": None}])
    with pytest.raises(DataError, match=r"a\.parquet, row 2: rejected is empty"):
        list(read_preferences(path))
    twice = pa.Table.from_arrays([pa.array(["a"])] * 4, names=["prompt", "chosen", "rejected", "prompt"])
    pq.write_table(twice, path)
    with pytest.raises(DataError, match=r"a\.parquet has the column prompt more than once"):
        list(read_preferences(path))
    pq.write_table(pa.table({"prompt": ["a"], "score": [1]}), path)
    with pytest.raises(DataError, match=r"a\.parquet lacks chosen, rejected \(it has prompt, score\)"):
        list(read_preferences(path))
    bad = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": ["a", "b"], "chosen": bad, "rejected": ["c", "d"]}), path)
    with pytest.raises(DataError, match="row 2 is not UTF-8"):
        list(read_preferences(path))
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_preferences(path))


def test_other_files_are_refused_and_empty_ones_hold_no_pair(compiler: PromptCompiler, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.csv is neither \.jsonl nor \.parquet"):
        read_preferences(tmp_path / "a.csv")
    with pytest.raises(UserError, match="is not a file"):
        read_preferences(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl contains no pair to train on"):
        build_pairs(jsonl(tmp_path / "a.jsonl", []), compiler, tmp_path / "bins")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return generate(SyntheticConfig(members=40, jobs=40, posts=40, interactions_per_member=60.0, opted_out_share=0.3))


@pytest.fixture(scope="module")
def split(tables: Tables) -> Split:
    times = micros(tables.interactions)
    return Split(train_until=times[len(times) * 3 // 4].as_py(), until=times[-1].as_py())


def test_pairs_prefer_the_action_of_the_member_and_have_strictly_earlier_history(
    tables: Tables, split: Split, compiler: PromptCompiler, tmp_path: Path
) -> None:
    compiler = PromptCompiler(compiler.suite, compiler.tokenizer, PromptFormat(context_length=1024))
    pairs = pairs_from_interactions(tables, compiler, split, count=300, seed=1)
    rows = {row["interaction_id"]: row for row in tables.interactions.to_pylist()}
    times = dict(zip(rows, micros(tables.interactions).to_pylist(), strict=True))
    records, cut, shown = Records(tables), 0, 0
    assert len({p.origin for p in pairs}) == 300
    for pair in pairs:
        scored_id = int(pair.origin.removeprefix("interaction "))
        assert times[scored_id] <= split.train_until
        profile = records.profiles[rows[scored_id]["member_id"]]  # members who opted out have no profile
        task = compiler.suite.tasks_of(rows[scored_id]["surface"])[0]
        labels = {action: list(ids) for action, ids in compiler.labels(task).items()}
        longest = max(map(len, labels.values()))
        assert pair.chosen.tolist() == labels.pop(rows[scored_id]["action"])
        assert [pair.rejected.tolist()] == list(labels.values())
        turns: list[tuple[int, ...]] = []
        for id_, row in rows.items():
            past = PastInteraction(
                entity=records.entities[row["entity_id"]],
                surface=row["surface"],
                action=row["action"],
                timestamp=times[id_],
            )
            if row["member_id"] == rows[scored_id]["member_id"] and past.surface in task.history.surfaces:
                question, answer, _ = compiler.turn(profile, past)
                if id_ == scored_id:
                    break
                if past.timestamp < times[scored_id]:
                    turns.append(question + answer)
        # head, as many of the newest turns as fit half of the context, question
        head = compiler.head(task, profile)[0]
        kept = [t for i, t in enumerate(turns) if len(head) + len(question) + longest + sum(map(len, turns[i:])) <= 512]
        assert pair.prompt.tolist() == [*head, *chain(*kept), *question]
        cut, shown = cut + len(turns) - len(kept), shown + len(kept)
    assert min(cut, shown) > 500  # both happen
    plan = build_pairs(pairs, compiler, tmp_path)
    assert plan.n_pairs == 300  # every pair fits a bin
    assert plan.turns_dropped == cut
    assert plan.tokens_cut == sum(pair.cut.tokens for pair in pairs)


def test_pairs_are_the_same_for_a_seed_and_do_not_use_the_oracle(
    tables: Tables, split: Split, compiler: PromptCompiler
) -> None:
    first, again, other = (
        [
            (p.origin, p.prompt.tolist(), p.chosen.tolist())
            for p in pairs_from_interactions(source, compiler, split, count=50, seed=s)
        ]
        for source, s in [(tables, 1), (replace(tables, oracle=None), 1), (tables, 2)]
    )
    assert first == again != other
    assert [origin for origin, *_ in first] != sorted(origin for origin, *_ in first)


def test_more_pairs_than_there_are_interactions_are_refused(
    tables: Tables, split: Split, compiler: PromptCompiler
) -> None:
    with pytest.raises(UserError, match=r"9999999 preference pairs are requested, but the training part has \d+"):
        pairs_from_interactions(tables, compiler, split, count=9_999_999, seed=0)


def test_with_more_than_two_actions_the_rejected_one_is_any_other(tokenizer: Tokenizer) -> None:
    count = 60
    movies = Tables(
        members=pa.table({"member_id": ["m"], "profile": [{"age": "20s"}], "locale": ["en"], "opted_out": [False]}),
        entities=pa.table(
            {
                "entity_id": ["e"],
                "entity_type": ["movie"],
                "created_at": pa.array([0], pa.timestamp("us", tz="UTC")),
                "fields": [{"title": "Heat"}],
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": range(count),
                "member_id": ["m"] * count,
                "entity_id": ["e"] * count,
                "surface": ["ratings"] * count,
                "action": ["rated_4"] * count,
                "timestamp": pa.array(range(count), pa.timestamp("us", tz="UTC")),
            }
        ),
    )
    compiler = PromptCompiler(load_suite("movielens"), tokenizer, PromptFormat(context_length=512, head_tokens=128))
    pairs = pairs_from_interactions(movies, compiler, Split(train_until=count, until=count + 1), count=count, seed=0)
    answers = {side: {tokenizer.decode(getattr(p, side)) for p in pairs} for side in ("chosen", "rejected")}
    assert answers == {"chosen": {"4"}, "rejected": {"1", "2", "3", "5"}}


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode())
    assert [row.prompt for row in read_preferences(path)] == [ROWS[0]["prompt"]]
