"""The dashboard of the job gateway."""

from brew_cluster.dashboards.panels import Dashboard, Panel, Query

__all__ = ["JOBS"]

JOBS = Dashboard(
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
