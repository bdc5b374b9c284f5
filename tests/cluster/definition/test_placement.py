"""The simulated placement: no node is overbooked, gangs are whole, and 64 nodes survive the loss of any of them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from brew_cluster.definition.placement import Node, nodes_of, place
from brew_cluster.definition.plan import plan_cluster
from brew_cluster.definition.programs import Demand

from .conftest import Loaded, load

NODES = st.builds(
    Node, name=st.just(""), group=st.just("g"), role=st.sampled_from(["train", "online"]),
    cpus=st.integers(0, 8), gpus=st.integers(0, 8),
)  # fmt: skip
DEMANDS = st.builds(
    Demand, program=st.just(""), role=st.sampled_from(["train", "online"]), count=st.integers(0, 12),
    most=st.just(12), cpus=st.integers(0, 4), gpus=st.integers(1, 4), gang=st.booleans(),
)  # fmt: skip


@given(st.lists(NODES, max_size=6), st.lists(DEMANDS, max_size=3))
def test_no_node_is_overbooked_and_gangs_are_whole(nodes: list[Node], demands: list[Demand]) -> None:
    nodes = [Node(**{**vars(node), "name": f"n{index}"}) for index, node in enumerate(nodes)]
    demands = [Demand(**{**vars(demand), "program": f"p{index}"}) for index, demand in enumerate(demands)]
    placed = place(nodes, demands)
    by_name = {node.name: node for node in nodes}
    used_cpus: Counter[str] = Counter()
    used_gpus: Counter[str] = Counter()
    for demand in demands:
        names = placed.nodes[demand.program]
        assert len(names) + placed.missing[demand.program] == demand.count
        assert not demand.gang or len(names) in (0, demand.count)
        assert all(by_name[name].role == demand.role for name in names)
        for name in names:
            used_cpus[name] += int(demand.cpus)
            used_gpus[name] += int(demand.gpus)
    assert all(used_cpus[node.name] <= node.cpus and used_gpus[node.name] <= node.gpus for node in nodes)


def test_64_training_nodes_and_serving_survive_the_loss_of_any_node(h100: Loaded) -> None:
    config, programs = h100
    nodes, demands = nodes_of(config, largest=True), programs.demands()
    assert Counter(node.role for node in nodes)["train"] == 64
    assert place(nodes, demands).complete
    for lost in nodes:
        if lost.role != "head":
            placed = place([node for node in nodes if node is not lost], demands)
            assert placed.complete, lost.name
            assert lost.name not in {name for names in placed.nodes.values() for name in names}


def test_a_gang_as_large_as_its_group_does_not_survive_without_a_replacement() -> None:
    config, programs = load(
        "h100_512", "training.settings=[data=/mnt/data/v1, run=/mnt/runs/r, train.workers=512, "
        "train.stages.0.bins_per_step=1024]",
    )  # fmt: skip
    nodes = nodes_of(config, largest=True)
    assert place(nodes, programs.demands()).complete
    rest = [node for node in nodes if node.name != "train-0"]
    assert place(rest, programs.demands()).missing["training"] == 512
    [train] = [group for group in plan_cluster(config, programs).groups if group.role == "train"]
    assert "waits for a replacement" in train.loss


def test_the_plan_says_what_the_loss_of_each_node_means(h100: Loaded, laptop: Loaded) -> None:
    plan = plan_cluster(*h100)
    losses = {group.name: group.loss for group in plan.groups}
    assert "Redis" in losses["head"]
    assert "spare node" in losses["train"]
    assert "replicas" in losses["online"]
    assert sum(group.gpus[1] for group in plan.groups) == plan.gpus == 576
    [training] = [program for program in plan.programs if program.program == "training"]
    assert training.nodes == {"train": 32}
    assert training.missing == 0
    assert "the cluster ends" in {group.name: group.loss for group in plan_cluster(*laptop).groups}["head"]


def test_an_elastic_gang_continues_on_fewer_workers() -> None:
    config, programs = load(
        "laptop", "training.settings=[data=/mnt/brew360/d, run=/mnt/brew360/r, train.min_workers=1]"
    )
    [train] = [group for group in plan_cluster(config, programs).groups if group.role == "train"]
    assert train.loss == "training continues from its checkpoint on 1 of 2 workers"
