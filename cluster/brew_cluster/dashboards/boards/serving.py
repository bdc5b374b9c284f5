"""The dashboard of the ranking service."""

from brew_cluster.dashboards.panels import Dashboard, Panel, Query

__all__ = ["SERVING"]

_API_REQUESTS = 'brew360:requests:rate5m{route=~"/v1/.*"}'  # without probes and scrapes

SERVING = Dashboard(
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
        Panel(
            title="Candidates for the answer log",
            meaning="written: in files; dropped: lost, because the store was down or too slow.",
            unit="ops",
            stacked=True,
            queries=[Query(expression="sum by (outcome) (rate(brew_answer_rows_total[5m]))", legend="{{outcome}}")],
        ),
    ],
)
