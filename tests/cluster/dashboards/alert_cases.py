"""Series of metrics at which each alert fires, and at which it does not, in the notation of `promtool test rules`.

`0+60x90`: starts at 0, and grows by 60 each minute, 90 times.
"""

from dataclasses import dataclass, field

__all__ = ["CASES", "Case"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An alert with series at which it fires.

    Args:
        alert: Its name.
        firing: Series at which it fires, by name.
        at: Time at which it fires.
        labels: Of the alert, besides name and severity.
        quiet: Series at which it does not fire at that time.
    """

    alert: str
    firing: dict[str, str]
    at: str
    quiet: dict[str, str]
    severity: str = "ticket"
    labels: dict[str, str] = field(default_factory=dict)


OK, FAILED = 'brew_requests_total{route="/v1/rank",status="200"}', 'brew_requests_total{route="/v1/rank",status="503"}'
PROBE = 'brew_requests_total{route="/health",status="503"}'
RUN = 'run="r",team="feed"'
RUN_LABELS = {"run": "r", "team": "feed"}
BUCKETS = 'brew_request_seconds_bucket{route="/v1/rank",le='


def training(name: str, tags: str = "") -> str:
    return f'ray_brew_train_{name}{{{RUN},WorkerId="w"{tags}}}'


CASES = [
    Case(
        alert="ServingDown",
        severity="page",
        firing={'up{job="brew360-service",instance="a"}': "1 0x5"},
        at="4m",
        labels={"job": "brew360-service", "instance": "a"},
        quiet={'up{job="brew360-service",instance="a"}': "1x5", 'up{job="other",instance="b"}': "0x5"},
    ),
    Case(
        alert="ServingErrorBudgetFast",
        severity="page",
        firing={OK: "0+98x90", FAILED: "0+2x90"},
        at="70m",
        quiet={OK: "0+999x90", FAILED: "0+1x90", PROBE: "0+500x90"},
    ),
    Case(
        alert="ServingErrorBudgetSlow",
        firing={OK: "0+990x420", FAILED: "0+10x420"},
        at="390m",
        quiet={OK: "0+9990x420", FAILED: "0+10x420"},
    ),
    Case(
        alert="ServingLatencyHigh",
        severity="page",
        firing={BUCKETS + '"1.0"}': "0+90x30", BUCKETS + '"2.5"}': "0+100x30", BUCKETS + '"+Inf"}': "0+100x30"},
        at="20m",
        labels={"route": "/v1/rank"},
        quiet={BUCKETS + '"0.5"}': "0+100x30", BUCKETS + '"+Inf"}': "0+100x30"},
    ),
    Case(
        alert="ServingShedding",
        severity="page",
        firing={OK: "0+100x40", 'brew_shed_total{reason="limit"}': "0+10x40"},
        at="30m",
        quiet={OK: "0+100x40", 'brew_shed_total{reason="quota"}': "0+50x40"},
    ),
    Case(
        alert="ServingQuotaReached",
        firing={
            'brew_requests_total{team="feed",route="/v1/rank",status="200"}': "0+50x60",
            'brew_requests_total{team="feed",route="/v1/rank",status="429"}': "0+50x60",
            'brew_requests_total{team="ads",route="/v1/rank",status="200"}': "0+50x60",
        },
        at="40m",
        labels={"team": "feed"},
        quiet={
            'brew_requests_total{team="feed",route="/v1/rank",status="200"}': "0+99x60",
            'brew_requests_total{team="feed",route="/v1/rank",status="429"}': "0+1x60",
        },
    ),
    Case(
        alert="ServingQuotaAlone",
        firing={"brew_quota_fallbacks_total": "0+5x30"},
        at="20m",
        quiet={"brew_quota_fallbacks_total": "7x30"},
    ),
    Case(
        alert="ServingVersionDown",
        severity="page",
        firing={'brew_version_up{version="3",role="production"}': "1 0x5"},
        at="4m",
        labels={"version": "3", "role": "production"},
        quiet={'brew_version_up{version="4",role="none"}': "0x5"},
    ),
    Case(
        alert="ServingInvalidNumbers",
        severity="page",
        firing={'brew_invalid_total{version="3"}': "0 0 1x10"},
        at="5m",
        labels={"version": "3"},
        quiet={'brew_invalid_total{version="3"}': "1x10"},
    ),
    Case(
        alert="ServingRequestsLost",
        firing={'brew_lost_total{version="3"}': "0+12x40"},
        at="30m",
        labels={"version": "3"},
        quiet={'brew_lost_total{version="3"}': "0+1x40"},
    ),
    Case(
        alert="ServingEngineFallback",
        firing={'brew_engine_fallbacks_total{replica="r1"}': "1x3"},
        at="1m",
        labels={"replica": "r1"},
        quiet={'brew_engine_fallbacks_total{replica="r1"}': "0x3"},
    ),
    Case(
        alert="ServingAnswersDropped",
        firing={'brew_answer_rows_total{outcome="dropped",replica="r1"}': "0x10 200x40"},
        at="40m",
        quiet={
            'brew_answer_rows_total{outcome="dropped",replica="r1"}': "200x90",
            'brew_answer_rows_total{outcome="written",replica="r1"}': "0+200x90",
        },
    ),
    Case(
        alert="TrainingStalled",
        severity="page",
        firing={training("last_step_time_seconds"): "0x30"},
        at="20m",
        labels=RUN_LABELS,
        quiet={training("last_step_time_seconds"): "0+60x30"},
    ),
    Case(
        alert="TrainingVanished",
        firing={
            training("step"): "5x10 stale",
            training("steps"): "100x10 stale",
            training("last_step_time_seconds"): "0+60x10 stale",
        },
        at="30m",
        labels=RUN_LABELS,
        quiet={  # it has finished
            training("step"): "100x10 stale",
            training("steps"): "100x10 stale",
            training("last_step_time_seconds"): "0+60x10 stale",
        },
    ),
    Case(
        alert="TrainingGoodputLow",
        firing={training("held_seconds"): "0+60x120", training("productive_seconds"): "0+30x120"},
        at="110m",
        labels=RUN_LABELS,
        quiet={training("held_seconds"): "0+60x120", training("productive_seconds"): "0+57x120"},
    ),
    Case(
        alert="TrainingRestarts",
        firing={training("restarts"): "0x20 5x40"},
        at="50m",
        labels=RUN_LABELS,
        quiet={training("restarts"): "7x60"},
    ),
    Case(
        alert="TrainingStepsSkipped",
        firing={training("skipped_steps"): "0x20 1x40"},
        at="50m",
        labels=RUN_LABELS,
        quiet={training("skipped_steps"): "1x60"},
    ),
    Case(
        alert="TrainingCheckpointSlow",
        firing={training("lost_seconds", ',cause="checkpoint"'): "0+1x100"},
        at="90m",
        labels={**RUN_LABELS, "cause": "checkpoint"},
        quiet={training("lost_seconds", ',cause="checkpoint"'): "0+0.3x100"},
    ),
    Case(
        alert="TrainingDataWait",
        firing={training("lost_seconds", ',cause="data"'): "0+5x100"},
        at="90m",
        labels={**RUN_LABELS, "cause": "data"},
        quiet={training("lost_seconds", ',cause="data"'): "0+2x100"},
    ),
    Case(
        alert="NearlineLagHigh",
        severity="page",
        firing={"brew_nearline_oldest_seconds": "0+60x30"},
        at="20m",
        quiet={"brew_nearline_oldest_seconds": "200x30"},
    ),
    Case(
        alert="NearlineDegraded",
        severity="page",
        firing={"brew_nearline_degraded": "1x10"},
        at="8m",
        quiet={"brew_nearline_degraded": "1x3 0x7"},
    ),
    Case(
        alert="NearlineDeadLetters",
        firing={'brew_nearline_jobs{state="dead"}': "2x10 4x40"},
        at="40m",
        quiet={'brew_nearline_jobs{state="dead"}': "7x50"},
    ),
    Case(
        alert="RegistryUnreadable",
        severity="page",
        firing={'brew_registry_read_timestamp_seconds{job="brew360-service"}': "0x20"},
        at="10m",
        quiet={'brew_registry_read_timestamp_seconds{job="brew360-service"}': "0+60x20"},
    ),
    Case(
        alert="VersionControllerDown",
        severity="page",
        firing={'up{job="brew360-service",instance="a"}': "1x20"},
        at="10m",
        labels={"job": "brew360-service", "instance": "a"},
        quiet={
            'up{job="brew360-service",instance="a"}': "1x20",
            'brew_registry_read_timestamp_seconds{job="brew360-service"}': "0+60x20",
        },
    ),
    Case(
        alert="VersionFailed",
        severity="page",
        firing={'brew_registry_events_total{kind="failed"}': "0x5 1x20"},
        at="10m",
        labels={"kind": "failed"},
        quiet={'brew_registry_events_total{kind="promote"}': "0x5 1x20"},
    ),
    Case(
        alert="PromotionBlocked",
        firing={'brew_registry_events_total{kind="blocked"}': "0x5 1x20"},
        at="10m",
        labels={"kind": "blocked"},
        quiet={'brew_registry_events_total{kind="blocked"}': "3x25"},
    ),
    Case(
        alert="ReleaseStepFailed",
        firing={'brew360_release_step_state{release="spring",step="train",state="failed"}': "1x3"},
        at="2m",
        labels={"release": "spring", "step": "train"},
        quiet={'brew360_release_step_state{release="spring",step="train",state="done"}': "1x3"},
    ),
    Case(
        alert="JobGatewayDown",
        severity="page",
        firing={'up{job="brew360-jobs",instance="a"}': "0x10"},
        at="8m",
        labels={"job": "brew360-jobs", "instance": "a"},
        quiet={'up{job="brew360-jobs",instance="a"}': "0x3 1x7"},
    ),
    Case(
        alert="JobsClusterUnreachable",
        severity="page",
        firing={"brew360_jobs_follows_cluster": "0x10"},
        at="8m",
        quiet={"brew360_jobs_follows_cluster": "1x10"},
    ),
    Case(
        alert="JobsWaitLong",
        firing={'brew360_jobs_oldest_queued_seconds{team="feed"}': "0+60x400"},
        at="390m",
        labels={"team": "feed"},
        quiet={'brew360_jobs_oldest_queued_seconds{team="feed"}': "3600x400"},
    ),
    Case(
        alert="JobsQuotaNearlyUsed",
        firing={
            'brew360_jobs_month_gpu_seconds{team="feed"}': "95x20",
            'brew360_jobs_quota_month_gpu_seconds{team="feed"}': "100x20",
        },
        at="15m",
        labels={"team": "feed"},
        quiet={
            'brew360_jobs_month_gpu_seconds{team="feed"}': "50x20",
            'brew360_jobs_quota_month_gpu_seconds{team="feed"}': "100x20",
        },
    ),
    Case(
        alert="JobsFailing",
        firing={'brew360_jobs_ended_total{team="feed",state="failed"}': "0x10 4x40"},
        at="40m",
        labels={"team": "feed"},
        quiet={'brew360_jobs_ended_total{team="feed",state="cancelled"}': "0x10 9x40"},
    ),
]
