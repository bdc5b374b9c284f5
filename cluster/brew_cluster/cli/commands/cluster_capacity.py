"""`brew360 cluster capacity`: plans of training runs and services, with formulas, ranges and alternatives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brew_cluster.capacity.assumptions import (
    COMPUTING,
    FAILURES,
    PREFILL,
    RECOVERY,
    WRITE,
    ServingAssumptions,
    TrainingAssumptions,
)
from brew_cluster.capacity.bounds import Bounds, Quantity
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically

if TYPE_CHECKING:
    from brew_cluster.capacity.decoder import Decoder
    from brew_cluster.definition.config import NodeGroup
    from brew_cluster.jobs.train_job import TrainJob
    from brew_train.diagnostics.dry_run_report import DryRun

__all__ = ["register"]

Definition = Annotated[
    str | None, typer.Option(help="Cluster definition whose GPUs, links and prices are used. Default: H100 SXM.")
]
Group = Annotated[
    str | None, typer.Option(help="Node group of the definition. Default: its first of the role train, or online.")
]
Compare = Annotated[
    list[str] | None,
    typer.Option(help='Settings of one more alternative, as in "context_length=32768 train.workers=512"; repeatable.'),
]
Price = Annotated[str | None, typer.Option(help="Price of a GPU for an hour, e.g. 2.5 or 2..4.")]
Svg = Annotated[Path | None, typer.Option(help="Also draw a plot into this SVG file.")]


def register(app: typer.Typer) -> None:
    """Add the group `capacity` to the group `cluster`."""
    group = typer.Typer(help="Plan memory, speed, goodput, replicas and cost.", no_args_is_help=True)

    @group.callback()
    def _capacity() -> None:
        """Plan memory, speed, goodput, replicas and cost, by formulas with their sources."""

    group.command()(train)
    group.command()(serve)
    app.add_typer(group, name="capacity")


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe.")] = "mixtral_8x22b",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. train.checkpoint_every=20", metavar="[KEY=VALUE]...")
    ] = None,
    gpus: Annotated[
        list[int] | None, typer.Option(min=1, help="GPUs; repeat it to compare. Default: the recipe's workers.")
    ] = None,
    compare: Compare = None,
    tokens: Annotated[float | None, typer.Option(min=1, help="Tokens of the run. Default: the recipe's.")] = None,
    document_length: Annotated[int, typer.Option(min=1, help="Tokens in a document; longer ones cost more.")] = 2048,
    mfu: Annotated[str, typer.Option(help="MFU without communication.")] = str(COMPUTING),
    failures: Annotated[str, typer.Option(help="Failures per 1,000 node-days.")] = str(FAILURES),
    recovery: Annotated[str, typer.Option(help="Seconds from a failure until training continues.")] = str(RECOVERY),
    write: Annotated[str, typer.Option(help="GB/s that each GPU writes to the storage.")] = str(WRITE),
    price: Price = None,
    definition: Definition = None,
    group: Group = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count bytes with the training code: a minute for each alternative.")
    ] = False,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """Plan a training run: memory of a GPU, tokens/s, communication, checkpoints, goodput, time and cost.

        brew360 cluster capacity train mixtral_8x22b --gpus 256 --gpus 512 --price 2..4

        brew360 cluster capacity train mixtral_8x22b --compare train.checkpoint_every=20 --svg lost-time.svg

    Each GPU gets as many bins as in the recipe. A range goes from optimistic to pessimistic assumptions.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.capacity.training_plan import TRAINING_QUANTITIES, lost_time_curve, training_plan
        from brew_cluster.cli.views.capacity import bands_svg
        from brew_cluster.jobs.train_job import load_job

        nodes = _group(definition, group, "train")
        assumed = TrainingAssumptions(
            mfu=Bounds.parse("--mfu", mfu, most=1.0),
            failures=Bounds.parse("--failures", failures),
            recovery=Bounds.parse("--recovery", recovery),
            write=Bounds.parse("--write", write),
            price=_price(price, nodes),
        )
        runs: dict[str, DryRun] = {}
        plans: dict[str, Mapping[str, Bounds]] = {}
        for name, settings, count in _alternatives(overrides or [], compare or [], gpus or [], "GPUs"):
            job = load_job(recipe, settings)
            runs[name] = _run(job, count or job.train.workers, document_length, nodes, counted=dry_run)
            plans[name] = training_plan(
                runs[name],
                tokens=tokens or sum(s.steps * s.bins_per_step for s in job.train.stages) * job.context_length,
                checkpoint_every=job.train.checkpoint_every,
                assumed=assumed,
            )
        _show(console, f"Training {recipe}", TRAINING_QUANTITIES, plans, as_json)
        if svg is not None:
            minutes = [2.0**power for power in range(-1, 11)]
            curves = {
                name: [
                    [(x / 60, y) for x, y in curve]
                    for curve in lost_time_curve(run, [60 * minute for minute in minutes], assumed)
                ]
                for name, run in runs.items()
            }
            image = bands_svg(
                f"Lost time of {recipe}, and its best checkpoint intervals (dashed, pessimistic)", curves,
                x_name="minutes between checkpoints", y_name="1 - goodput",
                top=max(y for curve in curves.values() for line in curve for _, y in line),
                marks=[plan["best checkpoint interval"].high / 60 for plan in plans.values()],
            )  # fmt: skip
            replace_atomically(svg, image)


def serve(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe of a service.")] = "h100",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. engine.quantization=null", metavar="[KEY=VALUE]...")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Training recipe of the model, or the folder of a model.")
    ] = "mixtral_8x22b",
    rate: Annotated[
        list[float] | None, typer.Option(help="Requests per second; repeat it to compare. Default: 10.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Candidates of a request.")] = 100,
    prefix_tokens: Annotated[int, typer.Option(help="Tokens of profile and history.")] = 600,
    candidate_tokens: Annotated[int, typer.Option(help="Tokens of a candidate.")] = 24,
    cached: Annotated[float, typer.Option(help="Share of the prefix tokens that are cached.")] = 0.0,
    spread: Annotated[float, typer.Option(help="Standard deviation of the work of a request / its mean.")] = 0.2,
    p99_ms: Annotated[float, typer.Option("--p99-ms", help="Limit of the 99th percentile of response times.")] = 500.0,
    replicas: Annotated[int | None, typer.Option(help="Number of replicas. Default: enough for the limit.")] = None,
    mfu: Annotated[str, typer.Option(help="MFU of the forward pass.")] = str(PREFILL),
    work_ms: Annotated[
        str | None, typer.Option(help="Measured engine time of a request at full load, instead of the formulas.")
    ] = None,
    compare: Compare = None,
    price: Price = None,
    definition: Definition = None,
    group: Group = None,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """Plan a service: memory of a GPU, replicas for a rate and a p99, candidates and tokens per second, cost.

        brew360 cluster capacity serve h100 --rate 10 --rate 100 --p99-ms 500 --price 2..4

        brew360 cluster capacity serve h100 --compare engine.quantization=null --svg p99.svg

    With --work-ms, the plan scales a measured time instead of computing it from FLOPs.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.capacity.hardware import gpu_of
        from brew_cluster.capacity.serving_plan import (
            NVLINK,
            SERVING_QUANTITIES,
            Workload,
            p99_curve,
            serving_plan,
        )
        from brew_cluster.cli.views.capacity import bands_svg
        from brew_cluster.jobs.serve_job import load_serve
        from brew_train.diagnostics.dry_run_report import Gpu

        nodes = _group(definition, group, "online")
        gpu = gpu_of(*nodes) if nodes else Gpu()
        nvlink = nodes[1].nvlink_gbytes_per_s if nodes else None
        assumed = ServingAssumptions(
            mfu=Bounds.parse("--mfu", mfu, most=1.0),
            work=None if work_ms is None else Bounds.parse("--work-ms", work_ms, unit=1e-3),
            price=_price(price, nodes),
        )
        decoder = _decoder_of(model)
        plans: dict[str, Mapping[str, Bounds]] = {}
        workloads: dict[str, Workload] = {}
        for name, settings, requests in _alternatives(overrides or [], compare or [], rate or [10.0], "requests/s"):
            workloads[name] = Workload(
                rate=float(requests or 0), candidates=candidates, prefix_tokens=prefix_tokens,
                candidate_tokens=candidate_tokens, cached=cached, spread=spread, limit=p99_ms / 1_000,
                replicas=replicas,
            )  # fmt: skip
            plans[name] = serving_plan(
                decoder, load_serve([recipe, *settings]).engine, workloads[name],
                gpu=gpu, nvlink=nvlink * 1e9 if nvlink else NVLINK, assumed=assumed,
            )  # fmt: skip
        _show(console, f"Serving {model} with {recipe}", SERVING_QUANTITIES, plans, as_json)
        if svg is not None:
            curves = {name: p99_curve(plan, workloads[name], assumed) for name, plan in plans.items()}
            image = bands_svg(
                f"p99 of {model}; limit {p99_ms:g} ms", curves,
                x_name="replicas", y_name="p99 in seconds", top=4 * p99_ms / 1_000,
            )  # fmt: skip
            replace_atomically(svg, image)


def _alternatives(
    overrides: Sequence[str], compare: Sequence[str], numbers: Sequence[Any], unit: str
) -> list[tuple[str, list[str], Any]]:
    """Return name, settings and number of each alternative: each number, without and with each of `compare`."""
    found = []
    for number in numbers or [None]:
        for extra in ("", *compare):
            words = [*([f"{number:g} {unit}"] if number is not None else []), *([extra] if extra else [])]
            found.append((", ".join(words) or "recipe", [*overrides, *extra.split()], number))
    return found


def _group(definition: str | None, name: str | None, role: str) -> "tuple[str, NodeGroup] | None":
    """Return name and settings of the node group to plan for; None without a definition."""
    from brew_cluster.definition.load import load_definition
    from brew_platform.errors import UserError

    if definition is None:
        if name is not None:
            raise UserError(f"--group {name} names a group of a cluster definition: pass --definition too.")
        return None
    config = load_definition([definition])
    groups = config.groups if name is not None else config.of_role(role)
    found = name if name is not None else next(iter(groups), role)
    if found not in groups:
        raise UserError(
            f"{definition} has no group {found!r}; its groups are {', '.join(config.groups) or 'none'}: choose one "
            f"with --group."
        )
    return found, groups[found]


def _price(text: str | None, nodes: "tuple[str, NodeGroup] | None") -> Bounds | None:
    from brew_cluster.capacity.hardware import price_of

    if text is not None:
        return Bounds.parse("--price", text)
    return price_of(nodes[1]) if nodes else None


def _run(
    job: "TrainJob", gpus: int, document_length: int, nodes: "tuple[str, NodeGroup] | None", *, counted: bool
) -> "DryRun":
    """Return the bytes and FLOPs of a step, by formulas or counted by the training code."""
    from brew_cluster.capacity.decoder import Decoder
    from brew_cluster.capacity.fsdp import estimate_run
    from brew_cluster.capacity.hardware import gpu_of
    from brew_cluster.jobs.train import shape_of
    from brew_train.diagnostics.dry_run import dry_run
    from brew_train.diagnostics.dry_run_report import Gpu

    gpu = gpu_of(*nodes) if nodes else Gpu()
    shape = shape_of(job)
    if not counted:
        decoder = Decoder.of(job.train.model, shape)
        return estimate_run(
            job.train, decoder, gpus=gpus, context_length=job.context_length, document_length=document_length, gpu=gpu
        )
    stage = job.train.stages[0]
    bins = -(-stage.bins_per_step // (job.train.workers * stage.micro_steps))
    return dry_run(job.train, gpus=gpus, shape=shape, bins_per_gpu=bins, document_length=document_length, gpu=gpu)


def _decoder_of(model: str) -> "Decoder":
    """Return the sizes of the model of a training recipe, or of a folder."""
    from brew_cluster.capacity.decoder import Decoder
    from brew_cluster.jobs.train import shape_of
    from brew_cluster.jobs.train_job import load_job
    from brew_train.config import ModelConfig, ModelShape

    if Path(model).is_dir():
        return Decoder.of(ModelConfig(init_from=model), ModelShape(vocabulary_size=1, context_length=1))
    job = load_job(model)
    return Decoder.of(job.train.model, shape_of(job))


def _show(
    console: PlainConsole,
    title: str,
    quantities: Sequence[Quantity],
    plans: Mapping[str, Mapping[str, Bounds]],
    as_json: bool,
) -> None:
    from brew_cluster.cli.views.capacity import plan_as_json, show_plans

    if as_json:
        print_json(plan_as_json(quantities, plans))
    else:
        show_plans(console, title, quantities, plans)
