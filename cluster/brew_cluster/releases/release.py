"""One release: its recipe, its folder and its steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brew_cluster.jobs.disk_space import require_space
from brew_cluster.releases.config import ReleaseRecipe
from brew_cluster.releases.metrics import write_metrics
from brew_cluster.releases.plan import Step
from brew_cluster.releases.run import ReleaseFolder, run_release
from brew_cluster.releases.runner import StepRunner
from brew_cluster.releases.tracking import MlflowRun
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError
from brew_platform.provenance import now

__all__ = ["Release"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that has been checked.

    Args:
        recipe: The recipe.
        path: Path or name that it was read from.
        folder: Of the release.
        steps: From `plan_release`.
    """

    recipe: ReleaseRecipe
    path: str
    folder: Path
    steps: Sequence[Step]

    def content(self) -> ReleaseFolder:
        """Return the content of `release.json`."""
        steps_folder = self.steps[0].folder.parent
        return ReleaseFolder(
            name=self.recipe.name,
            recipe=self.path,
            overrides=self.recipe.overrides,
            settings=self.recipe.settings,
            steps_folder=steps_folder,
            steps=self.steps,
            started=now(),
        )

    def run(
        self,
        runner: StepRunner,
        console: PlainConsole,
        *,
        mlflow: str | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the steps that have not finished.

        Args:
            runner: Runs their commands.
            console: The output.
            mlflow: Address of an MLflow server; None: the release is not tracked. If the server does not answer, the
                release runs without it.
            on_change: Called when a step starts or ends.

        Raises:
            BrewError: A step failed.
        """
        require_space(self.steps[0].folder.parent)
        content = self.content()
        content.save(self.folder)
        tracked = None if mlflow is None else MlflowRun.start(mlflow, content, self.folder, console)
        if tracked is not None:
            content = replace(content, tracking=tracked.page)
            content.save(self.folder)

        def changed() -> None:
            write_metrics(content, self.folder)
            on_change()

        try:
            run_release(self.steps, runner, console, name=self.recipe.name, on_change=changed)
        except BrewError:
            if tracked is not None:
                tracked.end(content, succeeded=False)
            raise
        finally:
            changed()
        if tracked is not None:
            tracked.end(content, succeeded=True)
        version = content.read_output("publish").get("number")
        console.print(f"{self.recipe.name}: all steps have finished" + (f"; version {version}." if version else "."))
