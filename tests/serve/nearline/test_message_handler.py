"""Handling of messages by a consumer: histories, rankings, and invalid jobs."""

from dataclasses import replace
from typing import Any

from brew_data.prompts.compiler import Entity

from ..nearline_service import LocalNearline, event, rank_job


def test_an_event_recorded_while_its_member_is_ranked_is_not_missed(nearline: LocalNearline) -> None:
    """The other consumer finds no slate to rank again, so this consumer must see its event."""

    class Between:
        def __getattr__(self, name: str) -> Any:
            return getattr(nearline.store, name)

        def put_slate(self, slate: Any) -> bool:
            if not nearline.context.snapshot("ada").events:
                nearline.worker().handle("ada", [event(1)])
            return nearline.store.put_slate(slate)

    nearline.worker(store=Between()).handle("ada", [replace(rank_job("r"), accepted_at=5)])
    stored = nearline.store.ranking("job_apply", "ada")
    assert stored is not None
    assert stored.event_ids == ["1"]


def test_later_events_update_every_ranking_of_the_member(nearline: LocalNearline) -> None:
    nearline.accept(
        rank_job("jobs"), rank_job("posts", task="post_interest", candidates=["e1", "e3"], top_k=1), event(1)
    )
    nearline.drain()
    first = [nearline.store.ranking(task, "ada") for task in ("job_apply", "post_interest")]
    nearline.accept(event(2, action="apply", timestamp=1), event(3, member="new"))
    nearline.drain()
    second = [nearline.store.ranking(task, "ada") for task in ("job_apply", "post_interest")]
    assert [ranking.event_ids for ranking in (*first, *second) if ranking] == [["1"], ["1"], ["2", "1"], ["2", "1"]]
    for ranking in second:
        assert ranking is not None
        assert ranking.version == 3
        assert ranking.answer["usage"]["candidates"] == 2
    assert len(second[1].answer["ranking"]) == 1  # type: ignore[union-attr]
    calls = nearline.engine.calls
    nearline.worker().handle("ada", [event(2, action="apply", timestamp=1)])  # delivered once more: nothing to compute
    assert nearline.engine.calls == calls


def test_after_a_promotion_only_the_new_version_ranks(nearline: LocalNearline) -> None:
    nearline.accept(rank_job("r"), event(1))
    nearline.drain()
    nearline.version = 4
    nearline.worker().handle("ada", [event(1)])  # delivered once more, to a consumer of the new version

    class Between:
        def __getattr__(self, name: str) -> Any:
            return getattr(nearline.store, name)

        def put_ranking(self, ranking: Any) -> bool:
            nearline.worker(3).handle("ada", [event(2)])  # and one to a consumer of either, at the same time
            return nearline.store.put_ranking(ranking)

    first = nearline.store.ranking("job_apply", "ada")
    nearline.worker(store=Between()).handle("ada", [event(2)])
    second = nearline.store.ranking("job_apply", "ada")
    nearline.accept(event(3))
    nearline.drain()
    third = nearline.store.ranking("job_apply", "ada")
    seen = [(ranking.version, ranking.event_ids) for ranking in (first, second, third) if ranking is not None]
    assert seen == [(3, ["1"]), (3, ["1", "2"]), (4, ["1", "2", "3"])]


def test_an_older_request_that_arrives_late_does_not_replace_a_newer_one(nearline: LocalNearline) -> None:
    nearline.accept(rank_job("old"))
    nearline.accept(rank_job("new", candidates=["e6"]))
    nearline.dispatcher.step()
    old, new = nearline.lane.held[0].jobs
    nearline.worker().handle("ada", [new])
    nearline.worker().handle("ada", [old])
    stored = nearline.store.ranking("job_apply", "ada")
    assert stored is not None
    assert (stored.request_id, [item["id"] for item in stored.answer["ranking"]]) == ("new", ["e6"])
    assert [slate.request_id for slate in nearline.store.slates("ada")] == ["new"]


def test_an_invalid_job_becomes_dead_alone_and_can_be_replayed(nearline: LocalNearline) -> None:
    nearline.accept(
        event(1),
        event(2, entity_id="p9"),
        event(3, surface="moon"),
        event(4, entity_id="x9", entity={"entity_type": "person", "fields": {}}),
        rank_job("r"),
        rank_job("s", task="post_interest", candidates=["e0"]),
        event(5, member="gone"),
        event(6),
    )
    nearline.drain()
    assert nearline.outbox.counts() == {"done": 3, "dead": 5}
    letters = {letter.job.job_id: letter for letter in nearline.outbox.dead_letters()}
    assert {id_: letter.error[:33] for id_, letter in letters.items()} == {
        "event:2": "candidate 'p9' is unknown here; s",
        "event:3": "surface 'moon' is unknown; this m",
        "event:4": "surface jobs shows entities of ty",
        "event:5": "member 'gone' is unknown here, or",
        "rank:s": "task post_interest ranks entities",
    }
    assert letters["event:2"].job.payload == event(2, entity_id="p9").payload
    assert letters["event:2"].attempts == 1
    assert nearline.context.snapshot("ada").events == ["1", "6"]

    post = {"entity_type": "post", "fields": {"topic": "news"}}
    nearline.accept(event(7, entity_id="p9", entity=post, surface="feed", action="like"))
    nearline.drain()
    assert nearline.outbox.replay(["event:2"]) == 1  # p9 is a post
    nearline.drain()
    again = next(letter for letter in nearline.outbox.dead_letters() if letter.job.job_id == "event:2")
    assert again.error == "surface jobs shows entities of type 'job', not 'post'."


def test_entities_of_events_are_ranked_by_their_fields(nearline: LocalNearline) -> None:
    fields = {"title": "pilot", "company": "new"}
    nearline.accept(
        event(1, entity_id="j9", entity={"entity_type": "job", "fields": fields}), rank_job("r", candidates=["j9"])
    )
    nearline.drain()
    assert nearline.context.entity("j9") == Entity(entity_type="job", fields=fields)
    stored = nearline.store.ranking("job_apply", "ada")
    assert stored is not None
    assert [item["id"] for item in stored.answer["ranking"]] == ["j9"]
