"""The surfaces of the graph, with their actions; docs/economic_graph.md explains the numbers."""

from typing import NamedTuple

from brew_data.sources.economic_graph.facts import EMPLOYERS, TONES

__all__ = ["MOST_ACTIONS", "SURFACES", "Action", "Surface"]

PRACTICAL, OPINION, PERSONAL, NEWS = range(len(TONES))
STARTUP, CORPORATION, CONSULTANCY, PUBLIC = range(len(EMPLOYERS))


class Action(NamedTuple):
    """The deepest step that a member takes on an impression."""

    name: str
    rate: float  # share of impressions, in a log with down-sampled negatives
    depth: float  # how much of the logit counts for the action, compared with no reaction (0)
    favours: int | None = None  # a tone, or an employer, with which the action is likelier


class Surface(NamedTuple):
    """A surface shows entities of one type. Actions are ordered from the most valuable one to no reaction."""

    name: str
    entity_type: str
    share: float  # of sessions
    actions: tuple[Action, ...]
    weekend: float  # use on a day of the weekend, relative to a working day
    peak: int = 0  # day of the (360-day) year when it is used most
    noisy: bool = False  # some clicks are accidental
    returns: str | None = None  # after this action, members often come back to the entity days later


SURFACES = (
    Surface(
        "jobs", "job", 0.14,
        (Action("apply", 0.12, 1.0, STARTUP), Action("save", 0.14, 0.9), Action("view", 0.26, 0.5),
         Action("skip", 0.48, 0.0)),
        weekend=0.4, peak=20, returns="save",
    ),
    Surface(
        "job_search", "search_result", 0.09,
        (Action("apply", 0.15, 1.0), Action("save", 0.13, 0.9), Action("click", 0.27, 0.5), Action("skip", 0.45, 0.0)),
        weekend=0.5, peak=20, returns="save",
    ),
    Surface(
        "feed", "post", 0.20,
        (Action("share", 0.08, 1.0, NEWS), Action("comment", 0.10, 1.0, OPINION), Action("like", 0.22, 0.9, PERSONAL),
         Action("read", 0.18, 0.5, PRACTICAL), Action("skip", 0.42, 0.0)),
        weekend=1.2, noisy=True,
    ),
    Surface(
        "notifications", "notification", 0.11,
        (Action("open", 0.36, 1.0), Action("dismiss", 0.50, 0.0), Action("mute", 0.14, -0.7)),
        weekend=0.8, noisy=True,
    ),
    Surface(
        "people", "person", 0.08,
        (Action("connect", 0.22, 1.0), Action("follow", 0.12, 0.8), Action("view", 0.20, 0.5),
         Action("skip", 0.46, 0.0)),
        weekend=0.7,
    ),
    Surface(
        "companies", "company", 0.05,
        (Action("follow", 0.28, 1.0, STARTUP), Action("view", 0.24, 0.5), Action("skip", 0.48, 0.0)),
        weekend=0.5,
    ),
    Surface(
        "courses", "course", 0.06,
        (Action("complete", 0.08, 1.1, PRACTICAL), Action("enroll", 0.16, 1.0), Action("save", 0.16, 0.8),
         Action("skip", 0.60, 0.0)),
        weekend=1.4, peak=10, returns="enroll",
    ),
    Surface(
        "groups", "group", 0.05,
        (Action("join", 0.25, 1.0), Action("visit", 0.25, 0.6), Action("skip", 0.50, 0.0)),
        weekend=1.2,
    ),
    Surface(
        "messages", "message", 0.07,
        (Action("reply", 0.22, 1.0), Action("read", 0.38, 0.5), Action("ignore", 0.40, 0.0)),
        weekend=0.4,
    ),
    Surface(
        "ads", "ad", 0.05,
        (Action("sign_up", 0.12, 1.0, STARTUP), Action("click", 0.22, 0.7), Action("skip", 0.66, 0.0)),
        weekend=0.9, noisy=True,
    ),
    Surface(
        "articles", "article", 0.06,
        (Action("share", 0.10, 1.0, NEWS), Action("save", 0.14, 0.9, PRACTICAL), Action("read", 0.30, 0.7),
         Action("skip", 0.46, 0.0)),
        weekend=1.3, noisy=True, returns="save",
    ),
    Surface(
        "events", "event", 0.04,
        (Action("attend", 0.20, 1.0, PRACTICAL), Action("interested", 0.25, 0.8), Action("skip", 0.55, 0.0)),
        weekend=0.6, peak=280,
    ),
)  # fmt: skip
MOST_ACTIONS = max(len(surface.actions) for surface in SURFACES)
