"""Every view and every command prints text from outside literally."""

import importlib.util
import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import brew_cluster
from brew_cluster.capacity.bounds import Bounds, Quantity
from brew_cluster.cli import runner
from brew_cluster.cli.main import app
from brew_data.sources.quarantine import Quarantine
from brew_platform.console.logging import open_log
from brew_platform.console.plain_console import PlainConsole
from brew_platform.registry.blobs import File
from brew_platform.registry.diff import Difference, FileDifference, VersionDiff
from brew_platform.registry.events import Event
from brew_platform.registry.garbage import Garbage
from brew_platform.registry.policy import Policy
from brew_platform.registry.registry import Fault, Version

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

HOSTILE = ["[/]", "[red]x", ":smile:", "\x1b[2J", "a\nb", "a\u202eb", "\ud800", "long " * 500]


def literal(text: str) -> str:
    return text.encode("unicode_escape").decode()


def event(text: str, kind: str = "tag") -> Event:
    return Event(
        number=1, kind=kind, version=1, alias=text, author=text, time="t", note=text, force_reason=text, share=0.1
    )


def version(text: str) -> Version:
    file = File(path=text, size=1, sha256="a" * 64)
    return Version(
        number=1, files=(file,), signature={text: text}, lineage={"parent": [text]}, metrics={text: {"auc": 0.5}},
        author=text, time=text, write_id="w",
    )  # fmt: skip


def ranking(text: str) -> Any:
    from brew_serve.schemas.rank import RankedItem, RankResponse, Truncated, Usage

    item = RankedItem.model_construct(id=text, score=0.5, probabilities={text: 0.5})
    return RankResponse.model_construct(
        version=1, task=text, ranking=[item], partial=True, unscored=[text], milliseconds=1.0,
        usage=Usage(prompt_tokens=1, candidates=1),
        truncated=Truncated.model_construct(
            turns_dropped=0, head_tokens_dropped=0, history_tokens_dropped=0, fields_cut=0, candidates={text: 3}
        ),
    )  # fmt: skip


def job(text: str) -> Any:
    from brew_cluster.gateway.spec import AttemptState, JobSpec, JobState

    spec = JobSpec.model_construct(kind="entrypoint", entrypoint=text, name=text, node_labels={text: text})
    attempt = AttemptState.model_construct(number=1, started=text, ended=text, outcome=text, reason=text, gpu_seconds=1)
    return JobState.model_construct(
        id=text, team=text, state=text, spec=spec, command=text, accepted="2026-01-01T00:00:00+00:00", ended=text,
        position=None, reason=text, attempts=[attempt], gpu_seconds=1.0,
    )  # fmt: skip


def usage(text: str) -> Any:
    from brew_cluster.gateway.spec import TeamUsage

    return TeamUsage(
        team=text, month=text, gpu_hours=1.0, gpu_hours_per_month=None, running_gpus=1, concurrent_gpus=None, queued=1,
        running=1,
    )  # fmt: skip


def status(text: str) -> Any:
    from brew_serve.schemas.status import FleetStatus, VersionStatus

    serving = VersionStatus.model_construct(version=1, role=text, share=1.0, replicas=1, state=text)
    return FleetStatus.model_construct(model=text, alias=text, versions=[serving])


def team(text: str) -> Any:
    from brew_platform.identity.keys import Team

    return Team(name=text)


def suite(text: str) -> Any:
    """A suite whose tasks and fields have this name, and which shows any fields as this text."""
    return SimpleNamespace(
        tasks=[SimpleNamespace(name=text, surface=text)],
        surface=lambda name: SimpleNamespace(entity_type=text),
        entities={text: SimpleNamespace(fields={text: None})},
        profile=SimpleNamespace(fields={text: None}),
        profile_text=lambda fields: text,
        entity_text=lambda kind, fields: text,
    )


def records(text: str) -> Any:
    return SimpleNamespace(profiles={text: {}}, entities={text: SimpleNamespace(entity_type="job", fields={})})


def scored_rows(text: str, name: str | None = None) -> Any:
    import pyarrow as pa

    from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo

    model, text = text, text.replace("\ud800", "")  # no Parquet file has a half surrogate
    columns = {
        "row_id": [1, 2], "task": [text] * 2, "surface": [text] * 2, "member": ["a", "b"], "time": [1, 2],
        "label": [True, False], "score": [0.8, 0.2], "history": [0, 0], "is_trained": [True] * 2,
    }  # fmt: skip
    info = ScoredRowsInfo(model=model, suite="s", data_digest="d", baseline=name)
    return ScoredRows.of(pa.table(columns), info)


def evaluated(text: str) -> Any:
    from brew_eval.evaluation import evaluate
    from brew_eval.measurement import EvaluationConfig

    rows = scored_rows(text)
    return evaluate(rows, [scored_rows(text, text or "b")], EvaluationConfig(replicates=2))


def comparison(text: str) -> Any:
    from brew_eval.compare import compare
    from brew_eval.measurement import EvaluationConfig

    return compare(scored_rows(text), scored_rows(text), EvaluationConfig(replicates=2))


def online(text: str) -> Any:
    task = SimpleNamespace(figures={}, counts=SimpleNamespace(used=1))
    arm = SimpleNamespace(role=text, version=1, joined=1, unjoined=0, too_young=0)
    arm.report = SimpleNamespace(tasks={text: task})
    return SimpleNamespace(arms=[arm], window=1, known_events=1, events=1, replaced=0, not_received=0)


def check(text: str) -> Any:
    from brew_cluster.jobs.dataset_check import DatasetCheck
    from brew_data.problems import Problem

    quarantine = Quarantine()
    quarantine.add(text, file=text, line=1, reason=text, values=text)
    return DatasetCheck(problems=[Problem(table=text, message=text, count=1, examples=[text])], quarantine=quarantine)


def card(text: str) -> Any:
    documents = {"loss_share": 0.5, "tokens": {"quantiles": {"100%": 1}}}
    bins = {
        "n_documents": 1, "n_tokens": 1, "n_bins": 1, "context_length": 1, "fill": 1.0, "tokens_cut": 1,
        "documents": documents,
    }  # fmt: skip
    task = {
        "surface": text, "in_training": True, "history": text, "training_rows": 1, "benchmark_rows": 1,
        "training_positive_rate": 0.5, "benchmark_positive_rate": 0.5,
    }  # fmt: skip
    return {
        "source": text, "suite": text, "created": text, "commit": text, "members_opted_out": 1,
        "time_range": [text, text],
        "rows": 1, "members": 1, "entities": {text: 1}, "actions": {text: {text: 1}}, "quarantined": {text: {text: 1}},
        "tasks": {text: task}, "bins": {"bins": bins}, "seconds": {"a": 1.0}, "removed": {text: {text: 1}},
    }  # fmt: skip


def dataset(text: str) -> Version:
    return Version(
        number=1, files=(), signature={"source": text, "digest": text}, lineage={"parent": None},
        metrics={"rows": 1, "bins": {}}, author=text, time=text, write_id="w",
    )  # fmt: skip


def explanation(text: str) -> Any:
    from brew_eval.explanation import Change, Explanation
    from brew_eval.prompt_variants import LeftOut, PromptPart

    change = Change(
        kind="entity", name=text, text=text, time=text, probabilities={}, score=0.5, change=0.1, log_odds_change=None
    )
    return Explanation(
        origin=dict.fromkeys(["model", "task", "interaction", "time", "history", "action"], text), positive=[text],
        labels={text: text}, outcome=text, prompt=[PromptPart(text, text, 1)], probabilities={text: 0.5}, score=0.5,
        log_odds=0.0, changes=[change], left_out=[LeftOut("profile", text, text)], warnings=[text],
    )  # fmt: skip


def inspection(text: str) -> Any:
    from brew_cluster.jobs.data_inspect import Inspection, Part, Token, TurnOrigin
    from brew_data.prompts.budget import Cut

    tokens = [Token(id=1, text=text, is_control=loss, has_loss=loss) for loss in (False, True)]
    origin = TurnOrigin(surface=text, entity_type=text, action=text, time=text, reason=text)
    part = Part(name=text, tokens=tokens, origin=origin, cut=Cut(fields=1), full_text=text)
    return Inspection(title=text, context_length=9, parts=[part], left_out={text: 1})


def slate(text: str) -> Any:
    from brew_cluster.jobs.demo_slates import DemoSlate

    return DemoSlate(task=text, member_id=text, candidates=[text])


REPORT = {
    "train": {"steps": 1, "tokens_per_second": 1.0}, "serve": {"p50_ms": 1.0}, "registry": {"version": 1},
    "seconds": {"total": 1.0}, "memory": {"peak_bytes": 1},
}  # fmt: skip

PAIRS = {
    "instructions": 2, "answers": 4, "pairs": 1, "requests": 4, "cut_answers": 1, "mean_score": 0.5,
    "mean_score_chosen": 1.0, "mean_score_rejected": 0.0,
}  # fmt: skip


def mix(text: str) -> Any:
    losses = {text: 1.0}
    return {
        "share": {text: 1.0}, "parameters": [1], "trials": [{"share": {text: 1.0}, "losses": [[losses]]}],
        "weights": {text: 1.0}, "losses": {"natural": losses, "chosen": losses}, "check": losses,
        "laws": {text: {"left_out_error": 0.1}}, "left_out_error": 0.1, "is_by_law": True, "skill": 0.5,
        "rank_correlations": {text: [1.0]}, "refusal": text, "is_extrapolated": False,
        "recipe": {text: {"weight": 1.0}},
    }  # fmt: skip


def plan(text: str) -> Any:
    from brew_cluster.definition.plan import ClusterPlan, GroupPlan, ProgramPlan

    group = GroupPlan(
        name=text, role=text, nodes=(1, 2), gpus=(8, 16), cpus=(1, 2), price_per_hour=(1.0, 2.0), loss=text
    )  # fmt: skip
    program = ProgramPlan(program=text, processes=(1, 2), size=text, nodes={text: 1}, missing=1)
    return ClusterPlan(name=text, gpus=16, groups=[group], programs=[program])


def local_node(text: str) -> Any:
    from brew_cluster.definition.local import LocalNode

    return LocalNode(name=text, head=False, cpus=1, labels={text: text})


def local_cluster(text: str) -> Any:
    from brew_cluster.definition.local import LocalCluster
    from brew_cluster.definition.local_gateway import LocalGateway

    return LocalCluster(
        address=text, jobs_url=text, token_path=Path("token"), gateway=LocalGateway(url=text, key_path=Path("key"))
    )


def release(text: str) -> Any:
    from brew_cluster.releases.plan import Step
    from brew_cluster.releases.run import ReleaseFolder

    folder = Path(text.replace("\ud800", "")[:99])
    step = Step(name=text, command=(text,), files={}, after=(), key=text, folder=folder)
    return ReleaseFolder(
        name=text, recipe=text, overrides=[], settings={}, steps_folder=folder, steps=[step], started=text
    )  # fmt: skip


def change(text: str) -> Any:
    from brew_cluster.releases.run import Change

    return Change(name=text, reason=text)


def quantity(text: str) -> Quantity:
    return Quantity(name=text, unit="s", formula=text, source=text)


# By function: the arguments after or before the console, of a text from outside.
VIEWS: dict[str, Callable[[Callable[..., Any], PlainConsole, str], Any]] = {
    "benchmark.show_report": lambda show, console, x: show(console, evaluated(x), title=x),
    "benchmark.show_comparison": lambda show, console, x: show(console, comparison(x)),
    "benchmark_online.show_online": lambda show, console, x: show(console, online(x)),
    "capacity.show_plans": lambda show, console, x: show(
        console, x, [quantity(x)], {x: {x: Bounds(1.0, 2.0)}}
    ),
    "cluster.show_local": lambda show, console, x: show(console, [local_node(x)], local_cluster(x)),
    "cluster.show_plan": lambda show, console, x: show(console, plan(x)),
    "card.show_card": lambda show, console, x: show(console, card(x)),
    "explanation.show_explanation": lambda show, console, x: show(console, explanation(x), member=x, top=1),
    "inspection.show_inspection": lambda show, console, x: show(console, inspection(x)),
    "registry.show_datasets": lambda show, console, x: show(console, [dataset(x)]),
    "registry.show_versions": lambda show, console, x: show(console, [version(x)], [event(x, "promote")]),
    "registry.show_version": lambda show, console, x: show(console, version(x), [event(x, "promote")]),
    "registry.show_log": lambda show, console, x: show(console, [event(x)]),
    "registry.print_event": lambda show, console, x: show(console, event(x), x, as_json=False),
    "registry.show_event": lambda show, console, x: show(console, event(x), x),
    "registry.show_diff": lambda show, console, x: show(
        console,
        VersionDiff(
            before=1, after=2, same_files=0, files=[FileDifference(path=x, before=None, after=None)],
            signature=[Difference(name=x, before=x, after=x)], lineage=[], metrics=[],
        ),
    ),
    "registry.show_policy": lambda show, console, x: show(console, Policy(roles={x: [x]}, change=[x])),
    "registry.show_garbage": lambda show, console, x: show(
        console, Garbage(versions=(1,), blobs=(), size=1, kept={2: x}), dry_run=False
    ),
    "registry.show_faults": lambda show, console, x: show(console, [Fault(version=1, name=x, problem=x)]),
    "release.show_status": lambda show, console, x: show(console, release(x), [change(x)]),
    "service.show_service": lambda show, console, x: show(
        console, f"http://{x}", suite("a"), keyed=True, logs=[x], foreground=True
    ),
    "service.show_ranking": lambda show, console, x: show(console, ranking(x)),
    "service.show_status": lambda show, console, x: show(console, status(x), x),
    "service.show_keys": lambda show, console, x: show(console, [(x, team(x))]),
    "data_pairs.print_pairs": lambda show, console, x: show(
        PAIRS, SimpleNamespace(least_margin=1.0, most_tokens=9), Path(x), console
    ),
    "jobs.show_job": lambda show, console, x: show(console, job(x)),
    "jobs.show_jobs": lambda show, console, x: show(console, [job(x)], all_teams=True),
    "jobs.show_usage": lambda show, console, x: show(console, usage(x)),
    "mix_search.show_mix_search": lambda show, console, x: show(console, mix(x)),
    "dataset_check.print_check": lambda show, console, x: show(check(x), console),
    "dataset_summary.print_summary": lambda show, console, x: show(
        card(x), SimpleNamespace(tokenizer=SimpleNamespace(from_=x)), Path(x), console
    ),
    "demo_report.show_rankings": lambda show, console, x: show(
        console, [(slate(x), ranking(x))], records(x), suite(x)
    ),
    "demo_report.show_figures": lambda show, console, x: show(console, REPORT),
    "demo_report.show_curl": lambda show, console, x: show(console, x, slate("a")),
}  # fmt: skip


def view_names() -> list[str]:
    """The public functions of brew_cluster that print: the module's name and the function's."""
    package = Path(brew_cluster.__file__).parent
    files = [*(package / "cli/views").glob("*.py"), *(package / "jobs").glob("*.py")]
    return sorted(
        f"{file.stem}.{name}"
        for file in files
        for name in re.findall(r"^def ((?:show|print)_\w+)", file.read_text(), re.MULTILINE)
        if name != "print_table"
    )


def view(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(".")
    for folder in ("cli.views", "jobs"):  # benchmark.py and registry.py are in both
        if importlib.util.find_spec(f"brew_cluster.{folder}.{module}"):
            found = importlib.import_module(f"brew_cluster.{folder}.{module}")
            if hasattr(found, function):
                return getattr(found, function)
    raise AssertionError(f"there is no view {name}")


def test_every_view_is_tried() -> None:
    assert view_names() == sorted(VIEWS)


@pytest.mark.parametrize("text", HOSTILE, ids=[repr(text[:8]) for text in HOSTILE])
@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_view_prints_text_from_outside_literally(name: str, text: str) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=40_000, force_terminal=True, color_system=None)
    VIEWS[name](view(name), console, text)
    printed = out.getvalue()
    assert "\x1b" not in printed
    if name != "demo_report.show_figures":  # prints numbers only
        assert literal(text) in printed


def test_a_warning_is_printed_literally(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path / "command.log"):
        logging.getLogger("brew_data").warning("title %s", "[red]\x1b[2J\n")
    assert capsys.readouterr().err == "WARNING: title [red]\\x1b[2J\\n\n"


@contextmanager
def no_processes() -> Iterator[None]:
    yield


def commands() -> list[list[str]]:
    """The names of all commands, each a list of words."""
    root = typer.main.get_command(app)
    found: list[list[str]] = []

    def walk(command: Any, path: list[str]) -> None:
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            found.append(path)
        for name, child in (subcommands or {}).items():
            walk(child, [*path, name])

    walk(root, [])
    return found


# `down` has no argument, and would stop the Rays of this machine; `study list` prints what ships. The others import
# for seconds, and read arguments as `serve up` and `data build` do.
LEFT_OUT = [["serve", "down"], ["cluster", "down"], ["study", "list"], ["train"], ["demo"]]


@pytest.mark.parametrize("words", [words for words in commands() if words not in LEFT_OUT], ids=" ".join)
def test_a_command_prints_its_arguments_literally(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give a hostile text to all arguments, or to the first option if there are none, and to required options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "guard_descendants", no_processes)
    monkeypatch.setattr(runner, "kill_descendants", lambda: None)
    monkeypatch.setattr(runner, "become_subreaper", lambda: None)
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)
    hostile = "./a[/]b[red]c:smile:\x1b[2J\nd"
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    arguments = [hostile for parameter in command.params if parameter.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.is_flag]
    options = [p for p in options if p.required] or ([] if arguments else options[:1])
    for option in options:
        arguments += [option.opts[0], hostile]
    done = CliRunner(env={"COLUMNS": "4000"}).invoke(app, [*words, *arguments])
    assert done.exit_code in (1, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "\x1b" not in done.output
    assert "MarkupError" not in done.output
    if words == ["rank"]:
        assert r"./a[/]b[red]c:smile:\x1b[2J\nd cannot be read" in done.output
