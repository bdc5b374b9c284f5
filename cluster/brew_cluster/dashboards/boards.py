"""The dashboards: serving, training, nearline, registry, jobs.

Names that begin with `brew360:` are recorded by the rules in `rules/`.
"""

from brew_cluster.dashboards.panels import Dashboard, Panel, Query

__all__ = ["DASHBOARDS"]

_API_REQUESTS = 'brew360:requests:rate5m{route=~"/v1/.*"}'  # without probes and scrapes

_SERVING = Dashboard(
    name="brew360-serving",
    title="brew360 serving",
    panels=[
        Panel(
            title="Availability",
            meaning="Share of the requests of the last hour without a status of 500 or more.",
            unit="percentunit",
            maximum=1.0,
            queries=[Query(expression="1 - brew360:request_errors:ratio1h", legend="last hour")],
        ),
        Panel(
            title="Latency of /v1/rank",
            meaning="From the first byte of a request at the gateway to the last byte of its response.",
            unit="s",
            queries=[
                Query(expression=f'brew360:request_seconds:p{percent}{{route="/v1/rank"}}', legend=f"p{percent}")
                for percent in (50, 95, 99)
            ],
        ),
        Panel(
            title="Requests by team",
            meaning="Answered requests, whatever their status.",
            unit="reqps",
            stacked=True,
            queries=[Query(expression=f"sum by (team) ({_API_REQUESTS})", legend="{{team}}")],
        ),
        Panel(
            title="Requests by status",
            meaning="499: the client disconnected; 429: a limit or a quota of the team; 503: no capacity.",
            unit="reqps",
            stacked=True,
            queries=[Query(expression=f"sum by (status) ({_API_REQUESTS})", legend="{{status}}")],
        ),
        Panel(
            title="Tokens of the engines",
            meaning="Prompt tokens that the engines computed, and those that their prefix caches had.",
            stacked=True,
            queries=[Query(expression="sum by (kind) (rate(brew_engine_tokens_total[5m]))", legend="{{kind}} / s")],
        ),
        Panel(
            title="Share of cached tokens",
            meaning="Prompt tokens from the prefix caches, of all prompt tokens.",
            unit="percentunit",
            maximum=1.0,
            queries=[
                Query(
                    expression='sum(rate(brew_engine_tokens_total{kind="cached"}[5m]))'
                    " / sum(rate(brew_engine_tokens_total[5m]))",
                    legend="cached",
                )
            ],
        ),
        Panel(
            title="Outstanding tokens by replica",
            meaning="Predicted work that is admitted and not finished.",
            queries=[Query(expression="brew_outstanding_tokens", legend="{{replica}}")],
        ),
        Panel(
            title="Estimated rate by replica",
            meaning="Tokens of work per second, by which admission predicts waiting times.",
            queries=[Query(expression="brew_tokens_per_second > 0", legend="{{replica}}")],
        ),
        Panel(
            title="Waiting requests by team",
            meaning="Requests that wait in the gateways for their turn.",
            stacked=True,
            queries=[Query(expression="sum by (team) (brew_waiting_requests)", legend="{{team}}")],
        ),
        Panel(
            title="Refused requests by reason",
            meaning="limit, deadline, compilation: admission; quota, rate: the team's; queue: too many wait.",
            unit="reqps",
            stacked=True,
            queries=[Query(expression="sum by (reason) (rate(brew_shed_total[5m]))", legend="{{reason}}")],
        ),
        Panel(
            title="Time by stage, p99",
            meaning="queue: in the gateway; receive: arrival to parsed; prepare: prompts; then engine and answer.",
            unit="s",
            queries=[
                Query(
                    expression="histogram_quantile(0.99, sum by (le, stage) (rate(brew_stage_seconds_bucket[5m])))",
                    legend="{{stage}}",
                )
            ],
        ),
        Panel(
            title="Candidates by task",
            meaning="Candidates that were scored.",
            unit="ops",
            stacked=True,
            queries=[Query(expression="sum by (task) (rate(brew_items_total[5m]))", legend="{{task}}")],
        ),
        Panel(
            title="Mean score by task and version",
            meaning="A canary whose mean differs from production's predicts something else.",
            unit="none",
            queries=[
                Query(
                    expression="sum by (task, version) (rate(brew_score_sum[5m]))"
                    " / sum by (task, version) (rate(brew_score_count[5m]))",
                    legend="{{task}} v{{version}}",
                )
            ],
        ),
        Panel(
            title="Failures by version",
            meaning="Requests that a version did not answer, and requests with numbers that are not probabilities.",
            unit="reqps",
            queries=[
                Query(expression="sum by (version) (rate(brew_lost_total[5m]))", legend="lost v{{version}}"),
                Query(expression="sum by (version) (rate(brew_invalid_total[5m]))", legend="invalid v{{version}}"),
            ],
        ),
        Panel(
            title="Shadow requests by outcome",
            meaning="Copies to a shadow version: compared, refused, lost, or dropped as too many.",
            unit="reqps",
            stacked=True,
            queries=[
                Query(
                    expression="sum by (version, outcome) (rate(brew_shadow_total[5m]))",
                    legend="v{{version}} {{outcome}}",
                )
            ],
        ),
        Panel(
            title="Unscored candidates by task",
            meaning="Candidates that a deadline left without a score.",
            unit="ops",
            queries=[Query(expression="sum by (task) (rate(brew_unscored_total[5m]))", legend="{{task}}")],
        ),
    ],
)

_TRAINING = Dashboard(
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

_NEARLINE = Dashboard(
    name="brew360-nearline",
    title="brew360 nearline",
    panels=[
        Panel(
            title="Lag",
            meaning="Age of the oldest event or request that is not done.",
            unit="s",
            queries=[Query(expression="max by (replica) (brew_nearline_oldest_seconds)", legend="{{replica}}")],
        ),
        Panel(
            title="Open jobs",
            meaning="accepted: in the outbox; enqueued: sent to a consumer.",
            stacked=True,
            queries=[
                Query(expression='max by (state) (brew_nearline_jobs{state=~"accepted|enqueued"})', legend="{{state}}")
            ],
        ),
        Panel(
            title="Dead letters",
            meaning="Jobs that failed too often, and wait for `replay` or their expiry.",
            queries=[Query(expression='max(brew_nearline_jobs{state="dead"})', legend="dead")],
        ),
        Panel(
            title="Degraded",
            meaning="1 while the store or the queue does not answer; events are accepted meanwhile.",
            maximum=1.0,
            queries=[Query(expression="max(brew_nearline_degraded)", legend="degraded")],
        ),
        Panel(
            title="Requests by route and status",
            meaning="Events and ranking requests that the gateway accepts, and rankings that clients read.",
            unit="reqps",
            queries=[
                Query(
                    expression='sum by (route, status) (brew360:requests:rate5m{route=~"/v1/(nearline|events).*"})',
                    legend="{{route}} {{status}}",
                )
            ],
        ),
    ],
)

_REGISTRY = Dashboard(
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

_JOBS = Dashboard(
    name="brew360-jobs",
    title="brew360 jobs and quotas",
    panels=[
        Panel(
            title="GPUs in use by team",
            meaning="GPUs of running jobs.",
            stacked=True,
            queries=[Query(expression="max by (team) (brew360_jobs_running_gpus)", legend="{{team}}")],
        ),
        Panel(
            title="Share of the quota of GPUs",
            meaning="GPUs of running jobs over the team's quota of concurrent GPUs; teams without a quota are absent.",
            unit="percentunit",
            maximum=1.0,
            queries=[
                Query(
                    expression="max by (team) (brew360_jobs_running_gpus) / max by (team) (brew360_jobs_quota_gpus)",
                    legend="{{team}}",
                )
            ],
        ),
        Panel(
            title="GPU-hours of this month",
            meaning="Used by the team's jobs since the first day of the month (UTC).",
            queries=[Query(expression="max by (team) (brew360_jobs_month_gpu_seconds) / 3600", legend="{{team}}")],
        ),
        Panel(
            title="Share of the month's quota",
            meaning="GPU-hours of this month over the team's quota; teams without a quota are absent.",
            unit="percentunit",
            maximum=1.0,
            queries=[Query(expression="brew360:jobs_month_quota:ratio", legend="{{team}}")],
        ),
        Panel(
            title="Jobs in the queue",
            meaning="Accepted jobs that wait for resources or for the team's quota.",
            stacked=True,
            queries=[Query(expression="max by (team) (brew360_jobs_queued)", legend="{{team}}")],
        ),
        Panel(
            title="Oldest job in the queue",
            meaning="Age of the job that waits longest.",
            unit="s",
            queries=[Query(expression="max by (team) (brew360_jobs_oldest_queued_seconds)", legend="{{team}}")],
        ),
        Panel(
            title="Wait in the queue, p90",
            meaning="From the submission to the first start, of the jobs that started in the last 6 hours.",
            unit="s",
            queries=[
                Query(
                    expression="histogram_quantile(0.9, "
                    "sum by (le, team) (increase(brew360_jobs_wait_seconds_bucket[6h])))",
                    legend="{{team}}",
                )
            ],
        ),
        Panel(
            title="Running jobs",
            meaning="Jobs that hold resources of the cluster.",
            stacked=True,
            queries=[Query(expression="max by (team) (brew360_jobs_running)", legend="{{team}}")],
        ),
        Panel(
            title="Ended jobs of the last day",
            meaning="By their final state.",
            queries=[
                Query(
                    expression="sum by (team, state) (increase(brew360_jobs_ended_total[1d]))",
                    legend="{{team}} {{state}}",
                )
            ],
        ),
        Panel(
            title="Refusals and preemptions of the last day",
            meaning="Submissions that were refused, such as those over a quota; attempts that gave way to other jobs.",
            queries=[
                Query(
                    expression="sum by (team, reason) (increase(brew360_jobs_refused_total[1d]))",
                    legend="{{team}} refused: {{reason}}",
                ),
                Query(
                    expression="sum by (team) (increase(brew360_jobs_preempted_total[1d]))", legend="{{team}} preempted"
                ),
            ],
        ),
        Panel(
            title="Cluster",
            meaning="1 if the gateway's last look at the cluster succeeded.",
            maximum=1.0,
            queries=[Query(expression="min(brew360_jobs_follows_cluster)", legend="followed")],
        ),
    ],
)

DASHBOARDS = (_SERVING, _TRAINING, _NEARLINE, _REGISTRY, _JOBS)
