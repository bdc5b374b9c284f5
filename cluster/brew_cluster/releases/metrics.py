"""The metrics of a release, as a file for the textfile collector of Prometheus' node exporter."""

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from brew_cluster.releases.run import ReleaseFolder, step_state

__all__ = ["METRICS_FILE", "write_metrics"]

METRICS_FILE = "metrics.prom"


def write_metrics(release: ReleaseFolder, folder: Path) -> None:
    """Write `metrics.prom` into the folder of a release.

    | metric | labels | content |
    |---|---|---|
    | brew360_release_step_seconds | release, step | time of the step over all attempts |
    | brew360_release_step_state | release, step, state | 1 for the state that the step is in |
    | brew360_release_version | release | number of the published version; absent before |
    """
    registry = CollectorRegistry()
    labels = ["release", "step"]
    seconds = Gauge("brew360_release_step_seconds", "time over all attempts", labels, registry=registry)
    states = Gauge("brew360_release_step_state", "1: the step is in this state", [*labels, "state"], registry=registry)
    versions = Gauge("brew360_release_version", "the published version", ["release"], registry=registry)
    for step in release.steps:
        found = step_state(step)
        seconds.labels(release.name, step.name).set(found.seconds)
        states.labels(release.name, step.name, found.state).set(1)
    if (number := release.read_output("publish").get("number")) is not None:
        versions.labels(release.name).set(number)
    write_to_textfile(str(folder / METRICS_FILE), registry)
