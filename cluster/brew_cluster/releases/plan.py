"""The steps of a release: checks the whole recipe, and names each step by what it depends on.

A step's folder is `<steps>/<name>-<first digits of its key>`. The key covers the command, the contents of its files and
the keys of the steps before, but no folder of the release. Therefore releases share the steps that they have in common.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.releases.config import TRAINING, CommandSection, ReleaseRecipe
from brew_cluster.releases.fingerprint import fingerprint, fingerprint_settings
from brew_cluster.releases.steps import step_key
from brew_platform.errors import ConfigError, UserError
from brew_platform.registry.gates import Gate

__all__ = ["GATES_FILE", "Step", "plan_release"]

GATES_FILE = "gates.yaml"  # in the folder of the step `publish`
_DIGITS = 16  # of the key, in the name of a step's folder
_OUTPUTS = {
    "data": "data",
    **dict.fromkeys(TRAINING, "run"),
    "benchmark": "report.json",
    "publish": "version.json",
    "gates": "log.txt",
    "canary": "canary.json",
    "promote": "log.txt",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a release.

    Args:
        name: A section of the recipe.
        command: Arguments of brew360. `<data>` is the output of the step data, `<out>` that of this step, `<folder>`
            its folder, `<publication>` a text that identifies a publication, `<version>` the number of the version.
        files: SHA-256 of the files that the command reads, by what they are.
        after: Names of the steps whose output it reads.
        key: Identifies the step.
        folder: Of its record, log and output.
        gates: To be written to `GATES_FILE` before the command runs.
    """

    name: str
    command: tuple[str, ...]
    files: Mapping[str, str]
    after: tuple[str, ...]
    key: str
    folder: Path
    gates: Sequence[Gate] = ()

    @property
    def output(self) -> Path:
        """The file or folder that the command writes."""
        return self.folder / _OUTPUTS[self.name]

    @property
    def record(self) -> Path:
        """The file with the step's `StepRecord`."""
        return self.folder / "record.json"

    @property
    def log(self) -> Path:
        """The file with the output of the command."""
        return self.folder / "log.txt"

    def document(self) -> dict[str, Any]:
        """Return the step as JSON."""
        return {
            "name": self.name,
            "command": list(self.command),
            "files": dict(self.files),
            "after": list(self.after),
            "key": self.key,
            "folder": str(self.folder),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Step":
        """Read a step. The gates, which only running it needs, are left out."""
        return cls(
            name=document["name"],
            command=tuple(document["command"]),
            files=document["files"],
            after=tuple(document["after"]),
            key=document["key"],
            folder=Path(document["folder"]),
        )


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What later steps must know of the data before they are built."""

    reference: str  # `<data>`, or the folder
    context_length: int
    tasks: Sequence[str]
    folders: frozenset[str]  # of bins
    gates: Sequence[Gate]


def plan_release(recipe: ReleaseRecipe, steps: Path) -> list[Step]:
    """Check a release recipe as a whole, and return its steps in the order in which they run.

    Args:
        recipe: The recipe.
        steps: Folder that receives the folders of the steps.

    Raises:
        UserError: A setting of a step is unknown or invalid, a file does not exist, a training step reads bins that the
            data do not have, or a gate names a figure that the benchmark does not measure.
        StorageError: The registry cannot be reached.
    """
    return _Planner(recipe, steps.absolute()).plan()


@contextmanager
def _section(name: str) -> Iterator[None]:
    """Begin the message of a UserError of the block with the section."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"section {name}: {error}") from error


@dataclass
class _Planner:
    recipe: ReleaseRecipe
    folder: Path
    steps: list[Step] = field(default_factory=list)

    def plan(self) -> list[Step]:
        recipe = self.recipe
        if recipe.start is not None and not (Path(recipe.start) / "config.json").is_file():
            raise UserError(f"from is {recipe.start}, which is not the folder of a model: it has no config.json.")
        data, gates, model = None, list[Gate](), recipe.start
        if "data" in recipe.commands:
            with _section("data"):
                data = self._data()
                gates = list(data.gates)
        for name in TRAINING:
            if name in recipe.commands and data is not None:
                with _section(name):
                    gates = list(self._train(name, data, model)) or gates
                    model = f"<{name}>/export"
        if "benchmark" in recipe.commands and data is not None and model is not None:
            with _section("benchmark"):
                self._benchmark(data, model, recipe.gates or ())
        if recipe.publish is not None and model is not None:
            self._publish(model, list(recipe.gates or gates))
        return self.steps

    def _add(
        self,
        name: str,
        command: Sequence[str],
        files: Mapping[str, str],
        after: Sequence[str],
        gates: Sequence[Gate] = (),
    ) -> None:
        keys = {step.name: step.key for step in self.steps}
        names = tuple(step for step in after if step in keys)
        key = step_key(["brew360", *command], [files[label] for label in files], [keys[step] for step in names])
        folder = self.folder / f"{name}-{key[:_DIGITS]}"
        step = Step(
            name=name, command=tuple(command), files=files, after=names, key=key, folder=folder, gates=tuple(gates)
        )
        self.steps.append(step)

    def _start(self) -> dict[str, str]:
        return {"from": fingerprint(Path(self.recipe.start))} if self.recipe.start else {}

    def _data(self) -> _Data:
        from brew_cluster.jobs.dataset_config import load_dataset_config
        from brew_data.data_folder import DataFolder
        from brew_data.prompts.suite import SUITES

        section = self.recipe.commands["data"]
        if section.folder is not None:
            existing = DataFolder.open(Path(section.folder))
            bundle = existing.bundle()
            return _Data(
                reference=section.folder,
                context_length=bundle.format.context_length,
                tasks=[task.name for task in bundle.suite.tasks],
                folders=frozenset(path.name for path in existing.folder.iterdir() if path.is_dir()),
                gates=existing.info.gates,
            )
        assert section.recipe is not None
        settings = [f"tokenizer.from={self.recipe.start}"] if self.recipe.start else []
        settings += section.settings
        config = load_dataset_config(section.recipe, settings)
        if config.path is not None and not Path(config.path).exists():
            raise UserError(f"path is {config.path}, which does not exist. Set path to the input files.")
        suite = config.load_suite()
        built_in = SUITES / config.suite
        files = {
            "recipe": fingerprint(find_recipe("data", section.recipe)),
            "suite": fingerprint(built_in if built_in.is_dir() else Path(config.suite)),
            **fingerprint_settings({**asdict(config), "suite": ""}),
            **self._start(),
        }
        self._add("data", ["data", "build", section.recipe, "--out", "<out>", *settings], files, ())
        pairs = ("pairs", "pairs-evaluation") if config.pairs else ()
        return _Data(
            reference="<data>",
            context_length=config.prompt.context_length,
            tasks=[task.name for task in suite.tasks],
            folders=frozenset({"bins", "evaluation", *config.corpora, *pairs}),
            gates=config.release.gates,
        )

    def _train(self, name: str, data: _Data, model: str | None) -> Sequence[Gate]:
        """Plan a training step; return its gates."""
        from brew_cluster.jobs.train_job import load_job

        section = self.recipe.commands[name]
        assert section.recipe is not None
        settings = [
            f"data={data.reference}",
            f"context_length={data.context_length}",
            f"train.model.init_from={model or 'null'}",
            *section.settings,
            "run=<out>",
        ]
        job = load_job(section.recipe, settings)
        start = job.train.model.init_from
        if start is not None and not start.startswith("<") and not Path(start).is_dir():
            raise UserError(
                f"train.model.init_from is {start}, which does not exist. Leave it out to start from `from`."
            )
        for stage, bins in {
            **job.bins,
            **{f"{stage} (evaluation)": path for stage, path in job.evaluation.items()},
        }.items():
            folder, _, rest = bins.removeprefix(f"{data.reference}/").partition("/")
            if bins.startswith(f"{data.reference}/") and not rest and folder not in data.folders:
                remedy = " Set data.pairs." if folder.startswith("pairs") else ""
                raise UserError(
                    f"the stage {stage} reads the bins {folder}, which the data do not have. They have "
                    f"{', '.join(sorted(data.folders))}.{remedy}"
                )
        files = {
            "recipe": fingerprint(find_recipe("train", section.recipe)),
            **self._existing_data(),
            **({} if start is None or start.startswith("<") else {"init_from": fingerprint(Path(start))}),
        }
        before = [step.name for step in self.steps if step.name in TRAINING][-1:]
        self._add(name, ["train", section.recipe, *settings], files, ["data", *before])
        return job.release.gates

    def _existing_data(self) -> dict[str, str]:
        """Return the fingerprint of a data set that the release does not build: that of its description."""
        section: CommandSection = self.recipe.commands["data"]
        return {} if section.folder is None else {"data": fingerprint(Path(section.folder) / "dataset.json")}

    def _benchmark(self, data: _Data, model: str, gates: Sequence[Gate]) -> None:
        from brew_cluster.jobs.benchmark import load_benchmark
        from brew_eval.gates import validate_gates

        settings = list(self.recipe.commands["benchmark"].settings)
        job = load_benchmark(None, {"data": data.reference}, settings)
        if unknown := [task for task in job.tasks if task not in data.tasks]:
            raise UserError(f"tasks names {unknown[0]!r}, but the suite has the tasks {', '.join(data.tasks)}.")
        validate_gates(gates, job.tasks or data.tasks, has_true_probabilities=True)
        before = [step.name for step in self.steps if step.name in TRAINING][-1:]
        files = {**self._existing_data(), **({} if before else self._start())}
        command = [
            "benchmark",
            "run",
            model,
            *settings,
            "--data",
            data.reference,
            "--report",
            "<out>",
            "run=<folder>/benchmark",
        ]
        self._add("benchmark", command, files, ["data", *before])

    def _publish(self, model: str, gates: list[Gate]) -> None:
        """Plan the steps from publish on."""
        from brew_platform.registry.registry import Registry
        from brew_platform.storage.base import open_store

        recipe, publish = self.recipe, self.recipe.publish
        assert publish is not None
        Registry(open_store(publish.registry), publish.model).versions()  # wrong credentials are found now
        promote = recipe.promote
        has_figures = "benchmark" in recipe.commands
        if promote is not None and not promote.force_reason and not (gates and has_figures):
            what = "a benchmark" if gates else "gates"
            raise ConfigError(
                f"section promote: the release does not have {what}, so that nothing could be judged. Add the section "
                f"{what.split()[-1]}, or set promote.force_reason."
            )
        where = ["--registry", publish.registry, "--model", publish.model]
        who = ["--author", publish.author] if publish.author else []
        command = ["registry", "publish", model, *where, *who, "--publication", "<publication>", "--out", "<out>"]
        command += ["--report", "<benchmark>"] if has_figures else []
        command += ["--dataset", publish.dataset] if publish.dataset else []
        command += ["--recipe", f"<folder>/{GATES_FILE}"] if recipe.gates is not None else []
        documents = json.dumps([gate.document() for gate in recipe.gates or ()])
        files = {"gates": hashlib.sha256(documents.encode()).hexdigest()}
        before = [step.name for step in self.steps if step.name in TRAINING][-1:]
        self._add("publish", command, files, ["data", *before, "benchmark"], recipe.gates or ())
        alias = promote.alias if promote is not None else "production"
        after = ["publish"]
        if recipe.gates is not None:
            self._add("gates", ["registry", "check", "<version>", "--alias", alias, *where, *who], {}, after)
            after = ["publish", "gates"]
        if recipe.canary is not None:
            self._canary([*where, *who], after)
            after = [*after, "canary"]
        if promote is not None:
            force = ["--force", "--reason", promote.force_reason] if promote.force_reason else []
            note = ["--note", f"release {recipe.name}"]
            self._add(
                "promote",
                ["registry", "promote", "<version>", "--alias", alias, *where, *who, *force, *note],
                {},
                after,
            )

    def _canary(self, where: Sequence[str], after: Sequence[str]) -> None:
        canary = self.recipe.canary
        assert canary is not None
        if canary.required and canary.url is None:
            raise ConfigError("section canary: it is required, but has no url. Set url to the address of the service.")
        if "data" not in self.recipe.commands:
            raise ConfigError("section canary: its requests are drawn from data. Add the section data.")
        reference = self.recipe.commands["data"].folder or "<data>"
        command = ["release", "canary", "<version>", *where, "--data", reference, "--report", "<out>"]
        command += [f"{name}={value}" for name, value in asdict(canary).items() if value is not None]
        self._add("canary", command, self._existing_data(), ["data", *after])
