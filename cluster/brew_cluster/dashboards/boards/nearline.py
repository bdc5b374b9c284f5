"""The dashboard of the nearline service."""

from brew_cluster.dashboards.panels import Dashboard, Panel, Query

__all__ = ["NEARLINE"]

NEARLINE = Dashboard(
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
