"""The dashboard of the model registry."""

from brew_cluster.dashboards.panels import Dashboard, Panel, Query

__all__ = ["REGISTRY"]

REGISTRY = Dashboard(
    name="brew360-registry",
    title="brew360 registry and versions",
    panels=[
        Panel(
            title="Events of the last day by kind",
            meaning="Promotions, rollbacks, canaries, refusals by gates (blocked), failures of the service, ...",
            queries=[Query(expression="sum by (kind) (increase(brew_registry_events_total[1d]))", legend="{{kind}}")],
        ),
        Panel(
            title="Age of the last read",
            meaning="While the registry cannot be read, the service follows no alias.",
            unit="s",
            queries=[Query(expression="time() - max(brew_registry_read_timestamp_seconds)", legend="age")],
        ),
        Panel(
            title="Replicas by version",
            meaning="Replicas that answer; the role none is a version that starts or is removed.",
            stacked=True,
            queries=[
                Query(expression="max by (version, role) (brew_version_replicas)", legend="v{{version}} {{role}}")
            ],
        ),
        Panel(
            title="Versions that answer",
            meaning="1: the version answers requests; 0: it starts, is down or is removed.",
            maximum=1.0,
            queries=[Query(expression="max by (version, role) (brew_version_up)", legend="v{{version}} {{role}}")],
        ),
        Panel(
            title="Steps of releases",
            meaning="1 for the state that a step is in.",
            maximum=1.0,
            queries=[
                Query(
                    expression="max by (release, step, state) (brew360_release_step_state)",
                    legend="{{release}} {{step}} {{state}}",
                )
            ],
        ),
        Panel(
            title="Time of the steps of releases",
            meaning="Over all attempts.",
            unit="s",
            queries=[
                Query(expression="max by (release, step) (brew360_release_step_seconds)", legend="{{release}} {{step}}")
            ],
        ),
    ],
)
