"""The base of a segment of the ledger: the state after all earlier events, as a document.

It has the open jobs, the jobs that have ended lately, and what the teams have used. A gateway that starts reads it in
place of the earlier events.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from brew_cluster.gateway.spec import JobSpec
from brew_cluster.gateway.state import WAIT_BOUNDS, Attempt, Job, LedgerState, TeamRecord
from brew_platform.errors import RegistryError

__all__ = ["base_of", "state_of"]

FORMAT_VERSION = 1


def base_of(state: LedgerState, *, kept_seconds: float) -> dict[str, Any]:
    """Return the document of a state.

    Args:
        state: After the last event of a segment.
        kept_seconds: Jobs that ended earlier than this before the last event are left out.
    """
    requests = {job: request for (_, request), job in state.requests.items()}
    since = state.now - kept_seconds
    return {
        "format_version": FORMAT_VERSION,
        "number": state.number,
        "now": state.now,
        "jobs": [
            {
                **asdict(job),
                "spec": job.spec.model_dump(mode="json", exclude_defaults=True),
                "request_id": requests[job.id],
            }
            for job in state.jobs.values()
            if job.ended is None or job.ended >= since
        ],
        "teams": {
            name: {**vars(team), "waits": [team.waits[bound] for bound in WAIT_BOUNDS]}
            for name, team in state.teams.items()
        },
    }


def state_of(document: Mapping[str, Any]) -> LedgerState:
    """Return the state of a document.

    Raises:
        RegistryError: The document is damaged, or is of another release.
    """
    state = LedgerState()
    try:
        if document["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version is {document['format_version']!r}")
        state.number, state.now = document["number"], document["now"]
        for fields in document["jobs"]:
            attempts = [Attempt(**attempt) for attempt in fields["attempts"]]
            spec = JobSpec.model_validate(fields["spec"])
            own = {name: value for name, value in fields.items() if name != "request_id"}
            state.add(Job(**{**own, "spec": spec, "attempts": attempts}), fields["request_id"])
        for name, fields in document["teams"].items():
            waits = Counter({bound: count for bound, count in zip(WAIT_BOUNDS, fields["waits"], strict=True) if count})
            counters = {key: Counter(fields[key]) for key in ("gpu_seconds", "ended", "refused")}
            state.teams[name] = TeamRecord(**{**fields, **counters, "waits": waits})
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"the base of the job ledger after event {document.get('number')} is damaged ({error}). Restore it from a "
            f"backup of the store."
        ) from error
    return state
