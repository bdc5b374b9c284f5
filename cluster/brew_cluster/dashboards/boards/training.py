"""The dashboard of training."""

from brew_cluster.dashboards.panels import Dashboard, Panel, Query

__all__ = ["TRAINING"]

TRAINING = Dashboard(
    name="brew360-training",
    title="brew360 training",
    panels=[
        Panel(
            title="Goodput by team, last hour",
            meaning="Productive share of the time for which the team's runs held their workers.",
            unit="percentunit",
            maximum=1.0,
            queries=[Query(expression="brew360:train_team_goodput:ratio1h", legend="{{team}}")],
        ),
        Panel(
            title="Goodput by run, last hour",
            meaning="Productive share of the time for which the run held its workers.",
            unit="percentunit",
            maximum=1.0,
            queries=[Query(expression="brew360:train_goodput:ratio1h", legend="{{team}} {{run}}")],
        ),
        Panel(
            title="Lost time by team and cause, last hour",
            meaning="docs/observability.md explains the causes.",
            unit="s",
            stacked=True,
            queries=[
                Query(
                    expression="sum by (team, cause) (delta(brew360:train_lost_seconds:max[1h])) > 0",
                    legend="{{team}} {{cause}}",
                )
            ],
        ),
        Panel(
            title="Age of the last step",
            meaning="A run that is older than a few steps has stalled, or its workers are down.",
            unit="s",
            queries=[
                Query(
                    expression="time() - max by (run, team) (ray_brew_train_last_step_time_seconds)",
                    legend="{{team}} {{run}}",
                )
            ],
        ),
        Panel(
            title="Tokens per second",
            meaning="Real tokens of all workers of a run; there is no padding.",
            queries=[
                Query(expression="max by (run, team) (ray_brew_train_tokens_per_second)", legend="{{team}} {{run}}")
            ],
        ),
        Panel(
            title="MFU",
            meaning="Model FLOP/s over the devices' peak; absent where the peak is unknown, as on CPU.",
            unit="percentunit",
            queries=[Query(expression="max by (run, team) (ray_brew_train_mfu)", legend="{{team}} {{run}}")],
        ),
        Panel(
            title="Loss",
            meaning="Of the training steps, and of the averaged weights on the evaluation bins.",
            unit="none",
            queries=[
                Query(expression="max by (run, stage) (ray_brew_train_loss)", legend="{{run}} {{stage}}"),
                Query(
                    expression="max by (run, stage) (ray_brew_train_evaluation_loss)",
                    legend="{{run}} {{stage}} evaluation",
                ),
            ],
        ),
        Panel(
            title="Time left",
            meaning="Until the last step at the mean speed so far, without evaluations and checkpoints.",
            unit="s",
            queries=[Query(expression="max by (run, team) (ray_brew_train_seconds_left)", legend="{{team}} {{run}}")],
        ),
        Panel(
            title="Restarts and skipped steps",
            meaning="Over the whole run.",
            queries=[
                Query(expression="max by (run, team) (ray_brew_train_restarts)", legend="{{run}} restarts"),
                Query(expression="max by (run, team) (ray_brew_train_skipped_steps)", legend="{{run}} skipped"),
            ],
        ),
        Panel(
            title="Waiting in a step",
            meaning="Time of the last step that waited for bins, and time that checkpoints blocked before it.",
            unit="s",
            queries=[
                Query(expression="max by (run) (ray_brew_train_data_wait_seconds)", legend="{{run}} data"),
                Query(
                    expression="max by (run) (ray_brew_train_checkpoint_blocked_seconds)", legend="{{run}} checkpoint"
                ),
            ],
        ),
    ],
)
