"""Decisions of the version reconciler, with a real registry, a fake clock and a fake Serve."""

from pathlib import Path

import pytest

from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore
from brew_serve.deployment.version_reconciler import ObservedVersion, Plan, Target, VersionReconciler, targets


class Stage:
    """A registry of four versions, and the applications of a fake Serve."""

    def __init__(self, folder: Path) -> None:
        (folder / "files").mkdir()
        (folder / "files" / "model").write_text("x")
        self.registry = Registry(LocalStore(folder / "store"))
        for _ in range(4):
            self.registry.publish(folder / "files", signature={}, lineage={}, metrics={}, author="t")
        self.now, self.seen = 0.0, dict[int, ObservedVersion]()
        self.reconciler = self.new_reconciler()

    def new_reconciler(self) -> VersionReconciler:
        return VersionReconciler("production", start_seconds=100, retire_seconds=5, clock=lambda: self.now)

    def promote(self, number: int) -> None:
        self.registry.promote(number, force=True, reason="test", author="t")

    def step(self, seconds: float = 1.0) -> Plan:
        """Reconcile and apply the plan. Started versions are up only when the test says so."""
        self.now += seconds
        plan = self.reconciler.reconcile(self.registry.events(), self.seen)
        self.seen |= {number: ObservedVersion(state="starting") for number in plan.start}
        for number in plan.remove:
            del self.seen[number]
        return plan

    def comes_up(self, *numbers: int) -> None:
        self.seen |= {number: ObservedVersion(state="up", replicas=1) for number in numbers}

    def dies(self, *numbers: int) -> None:
        self.seen |= {number: ObservedVersion(state="down") for number in numbers}

    def routes(self) -> list[tuple[str, int, float]]:
        return [(target.role, target.version, target.share) for target in self.step().routes]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.promote(1)
    assert stage.step().start == (1,)
    stage.comes_up(1)
    assert stage.routes() == [("production", 1, 1.0)]
    return stage


def test_traffic_moves_when_the_new_version_is_up_and_the_old_one_is_removed_later(stage: Stage) -> None:
    stage.promote(2)
    plan = stage.step()
    assert (plan.start, plan.remove, plan.routes[0].version) == ((2,), (), 1)
    for _ in range(20):
        plan = stage.step()
        assert (plan.start, plan.remove, plan.failed, plan.routes[0].version) == ((), (), (), 1)
    stage.comes_up(2)
    plan = stage.step()
    assert (plan.routes, plan.remove) == ((Target(role="production", version=2, event=2),), ())
    assert stage.step(4.9).remove == ()  # gateways may not know yet
    assert stage.step(0.1).remove == (1,)
    assert stage.step().remove == ()


def test_a_version_that_does_not_load_is_reported_once_and_retried_only_after_an_alias_move(stage: Stage) -> None:
    stage.promote(2)
    stage.step()
    stage.seen[2] = ObservedVersion(state="failed", error="it has no weights.")
    plan = stage.step()
    assert plan.failed == ((Target(role="production", version=2, event=2), "it has no weights."),)
    assert (plan.remove, plan.start, plan.routes[0].version) == ((2,), (), 1)
    for _ in range(3):
        plan = stage.step()
        assert (plan.failed, plan.remove, plan.start, plan.routes[0].version) == ((), (), (), 1)
    stage.promote(2)
    assert stage.step().start == (2,)


def test_a_version_that_does_not_start_in_time_is_stopped(stage: Stage) -> None:
    stage.promote(2)
    stage.step()
    assert stage.step().failed == ()
    assert stage.step(100).failed == ()
    plan = stage.step()
    assert [why for _, why in plan.failed] == ["it was not up after 101 s (start_seconds is 100)"]
    assert (plan.remove, plan.routes[0].version) == ((2,), 1)
    assert stage.step().start == ()


def test_moving_an_alias_back_cancels_the_start_of_the_new_version(stage: Stage) -> None:
    stage.promote(2)
    assert stage.step().start == (2,)
    stage.registry.rollback(author="t")
    plan = stage.step()
    assert (plan.remove, plan.routes[0].version) == ((2,), 1)


def test_canary_and_shadow_get_their_shares_beside_production(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.2)
    stage.registry.append("shadow", 3, author="t")
    assert stage.step().start == (2, 3)
    stage.comes_up(2)
    assert stage.routes() == [("production", 1, 1.0), ("canary", 2, 0.2)]
    stage.comes_up(3)
    assert stage.routes() == [("production", 1, 1.0), ("canary", 2, 0.2), ("shadow", 3, 0.1)]
    stage.registry.append("canary", 2, author="t", share=0.5)
    assert stage.routes()[1] == ("canary", 2, 0.5)
    stage.promote(2)  # it is up already, so that it takes over at once
    assert stage.routes() == [("production", 2, 1.0), ("shadow", 3, 0.1)]
    stage.registry.append("shadow", 3, author="t", share=0)
    assert stage.routes() == [("production", 2, 1.0)]
    assert stage.step(5).remove == (1, 3)


def test_a_reconciler_of_production_only_ignores_canaries_and_removes_at_once(stage: Stage) -> None:
    stage.reconciler = VersionReconciler(
        "production", roles=["production"], start_seconds=100, retire_seconds=0, clock=lambda: stage.now
    )
    assert stage.routes() == [("production", 1, 1.0)]
    stage.registry.append("canary", 3, author="t")
    stage.promote(2)
    assert stage.step().start == (2,)
    stage.comes_up(2)
    plan = stage.step()
    assert ([(target.role, target.version) for target in plan.routes], plan.remove) == ([("production", 2)], (1,))


def test_a_canary_that_does_not_load_leaves_production_alone(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t")
    stage.step()
    stage.seen[2] = ObservedVersion(state="failed", error="no.")
    plan = stage.step()
    assert [(target.role, target.version) for target, _ in plan.failed] == [("canary", 2)]
    assert [(target.role, target.version) for target in plan.routes] == [("production", 1)]


def test_a_restarted_controller_continues_with_the_versions_that_are_up(stage: Stage) -> None:
    stage.promote(2)
    stage.step()
    stage.reconciler = stage.new_reconciler()
    plan = stage.step()
    assert (plan.routes[0].version, plan.start, plan.remove) == (1, (), ())
    stage.registry.append("canary", 3, author="t", share=0.5)
    stage.comes_up(3)
    stage.reconciler = stage.new_reconciler()
    assert stage.routes() == [("production", 1, 1.0), ("canary", 3, 0.5)]


def test_a_production_application_that_vanishes_is_restarted(stage: Stage) -> None:
    del stage.seen[1]
    plan = stage.step()
    assert (plan.start, plan.routes) == ((1,), ())
    stage.comes_up(1)
    assert stage.routes() == [("production", 1, 1.0)]


def test_a_version_that_is_being_deleted_is_neither_routed_nor_started(stage: Stage) -> None:
    stage.promote(2)
    stage.comes_up(2)
    stage.step()
    stage.seen[1] = ObservedVersion(state="leaving", replicas=1)
    stage.registry.rollback(author="t")
    plan = stage.step()
    assert (plan.start, plan.remove, plan.routes[0].version) == ((), (), 2)
    del stage.seen[1]
    assert stage.step().start == (1,)


# --- Replicas that die ---


def roles(plan: Plan) -> list[tuple[str, int, bool]]:
    return [(target.role, target.version, target.up) for target in plan.routes]


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_production_follows_promotions_while_another_version_is_down(stage: Stage, role: str) -> None:
    stage.registry.append(role, 2, author="t", share=0.5)
    stage.step()
    stage.comes_up(2)
    assert roles(stage.step()) == [("production", 1, True), (role, 2, True)]
    stage.dies(2)
    assert roles(stage.step()) == [("production", 1, True), (role, 2, False)]
    stage.promote(3)
    plan = stage.step()
    assert (plan.start, roles(plan)) == ((3,), [("production", 1, True), (role, 2, False)])
    stage.comes_up(3)
    assert roles(stage.step()) == [("production", 3, True), (role, 2, False)]
    stage.comes_up(2)
    assert roles(stage.step()) == [("production", 3, True), (role, 2, True)]


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_canary_or_shadow_that_dies_repeatedly_is_given_up(stage: Stage, role: str) -> None:
    stage.registry.append(role, 2, author="t", share=0.5)
    stage.step()
    for _ in range(2):
        stage.comes_up(2)
        stage.step(60)
        stage.dies(2)
        assert stage.step().failed == ()
        assert stage.step().failed == (), "one death is counted once"
    stage.comes_up(2)
    stage.step()
    stage.dies(2)
    plan = stage.step()
    assert [(target.role, why) for target, why in plan.failed] == [
        (role, "all of its replicas died 3 times within 30 minutes")
    ]
    assert (plan.remove, roles(plan)) == ((2,), [("production", 1, True)])
    assert stage.step().start == ()


def test_deaths_that_are_far_apart_are_not_a_loop(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.5)
    stage.step()
    for _ in range(6):
        stage.comes_up(2)
        stage.step(1_000)
        stage.dies(2)
        assert stage.step().failed == ()


def test_a_canary_that_stays_down_is_given_up_after_the_time_of_a_start(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.5)
    stage.step()
    stage.comes_up(2)
    stage.step()
    stage.dies(2)
    assert stage.step().failed == ()
    assert stage.step(100).failed == ()
    assert [why for _, why in stage.step().failed] == ["it was not up again after 101 s (start_seconds is 100)"]


def test_production_that_dies_repeatedly_stays_if_nothing_else_can_answer(stage: Stage) -> None:
    for _ in range(5):
        stage.dies(1)
        plan = stage.step()
        assert (plan.failed, plan.remove, roles(plan)) == ((), (), [("production", 1, False)])
        stage.comes_up(1)
        assert roles(stage.step()) == [("production", 1, True)]
    stage.dies(1)
    stage.step(10_000)
    assert stage.step(10_000).failed == ()


def test_a_promoted_version_that_dies_at_once_leaves_traffic_to_the_previous_one(stage: Stage) -> None:
    stage.promote(2)
    stage.step()
    for death in range(3):
        stage.comes_up(2)
        assert stage.routes()[0][1] == 2
        stage.dies(2)
        plan = stage.step()
        assert (roles(plan), plan.remove) == ([("production", 1, True)], (2,) if death == 2 else ())
    assert [(target.version, why) for target, why in plan.failed] == [
        (2, "all of its replicas died 3 times within 30 minutes")
    ]
    assert stage.step(60).start == ()
    assert stage.routes() == [("production", 1, 1.0)]


def test_a_version_that_is_down_is_replaced_by_the_next_promotion(stage: Stage) -> None:
    stage.dies(1)
    assert roles(stage.step()) == [("production", 1, False)]
    stage.promote(2)
    plan = stage.step()
    assert (plan.start, roles(plan)) == ((2,), [("production", 1, False)])
    stage.comes_up(2)
    plan = stage.step()
    assert (roles(plan), plan.remove) == ([("production", 2, True)], (1,))


def test_a_restarted_controller_routes_to_production_that_is_down_once_it_has_been_up(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.5)
    stage.dies(1)
    stage.comes_up(2)
    stage.reconciler = stage.new_reconciler()
    assert roles(stage.step()) == [("production", 1, False), ("canary", 2, True)]


# --- Events in quick succession ---


def test_of_two_promotions_in_quick_succession_the_last_one_counts(stage: Stage) -> None:
    stage.promote(2)
    assert stage.step().start == (2,)
    stage.promote(3)
    stage.promote(4)
    plan = stage.step()
    assert (plan.start, plan.remove, roles(plan)) == ((4,), (2,), [("production", 1, True)])
    stage.comes_up(4)
    assert stage.routes() == [("production", 4, 1.0)]


def test_a_canary_that_is_promoted_while_it_starts_becomes_production_when_it_is_up(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.5)
    assert stage.step().start == (2,)
    stage.promote(2)
    plan = stage.step()
    assert (plan.start, plan.remove, roles(plan)) == ((), (), [("production", 1, True)])
    stage.comes_up(2)
    assert stage.routes() == [("production", 2, 1.0)]


def test_a_canary_that_failed_and_is_promoted_gets_another_attempt(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.5)
    stage.step()
    stage.seen[2] = ObservedVersion(state="failed", error="no.")
    assert len(stage.step().failed) == 1
    stage.promote(2)
    assert stage.step().start == (2,)


def test_a_retired_version_keeps_its_alias(stage: Stage) -> None:
    stage.registry.append("canary", 2, author="t", share=0.5)
    stage.step()
    stage.comes_up(2)
    for number in (1, 2):
        stage.registry.append("retire", number, author="t")
    assert roles(stage.step()) == [("production", 1, True), ("canary", 2, True)]


def test_a_fixed_version_ignores_the_aliases(stage: Stage) -> None:
    stage.promote(2)
    assert targets(stage.registry.events(), "3") == [Target(role="production", version=3)]


def test_events_of_the_registry_carry_shares_and_failures(stage: Stage) -> None:
    registry = stage.registry
    assert registry.append("canary", 2, author="t").share == 0.05
    event = registry.append("failed", 2, author="t", alias="production", note="no weights")
    assert (event.alias, event.note, event.share) == ("production", "no weights", None)
    assert registry.aliases() == {"canary": 2, "production": 1}
    assert [event.share for event in Registry(registry.store).events()] == [None, 0.05, None]
    with pytest.raises(UserError, match=r"the share of a shadow is 1\.5\. Set a number from 0"):
        registry.append("shadow", 2, author="t", share=1.5)
    with pytest.raises(UserError, match="an event of kind tag has no share of the traffic"):
        registry.append("tag", 2, author="t", share=0.5)
    registry.append("retire", 3, author="t")
    with pytest.raises(RegistryError, match="version 3 of brew360 is retired"):
        registry.append("shadow", 3, author="t")
