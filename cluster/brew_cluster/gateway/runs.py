"""Builds what the cluster runs for an attempt of a job."""

import shlex

from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.executor import Run
from brew_cluster.gateway.launcher import RECIPE_VARIABLE, STOP_VARIABLE
from brew_cluster.gateway.state import Job

__all__ = ["build_run"]


def build_run(job: Job, attempt: int, config: GatewayConfig) -> Run:
    """Return the run of an attempt; the same arguments give the same run in every gateway.

    Args:
        job: The job.
        attempt: Its number, from 1.
        config: Of the gateway.
    """
    spec = job.spec
    environment = {
        "BREW360_JOB_ID": job.id,
        "BREW360_JOB_ATTEMPT": str(attempt),
        "BREW360_JOB_TEAM": job.team,  # training metrics have it as a tag
    }
    if job.traceparent:
        environment["TRACEPARENT"] = job.traceparent  # the spans of its commands belong to the submission's trace
    if spec.entrypoint is not None:
        entrypoint = spec.entrypoint
    else:
        assert spec.command is not None
        assert spec.recipe is not None
        arguments = [*spec.command.split(), spec.recipe, *spec.overrides, *spec.options]
        entrypoint = shlex.join(["python", "-m", "brew_cluster.gateway.launcher", *arguments])
        environment[STOP_VARIABLE] = str(config.stop_seconds)
        if spec.recipe_text is not None:
            environment[RECIPE_VARIABLE] = spec.recipe_text
    if config.folder:
        folder = shlex.quote(f"{config.folder.rstrip('/')}/{job.team}")
        # A statement of its own: `cd folder && a & b` would run b elsewhere.
        entrypoint = f"mkdir -p {folder} && cd {folder} || exit 1; {entrypoint}"
    return Run(
        id=f"{config.name}-{job.id}-{attempt}",
        entrypoint=entrypoint,
        fields={
            "job": job.id,
            "attempt": str(attempt),
            "team": job.team,
            "gpus": str(spec.gpus),
            "ledger": config.name,
            "nonce": job.nonce,
        },
        environment=environment,
        node_labels=spec.node_labels,
    )
