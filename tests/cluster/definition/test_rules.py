"""Every rule of a cluster definition: the definitions that ship keep it, and a broken one is refused with a remedy."""

import pytest

from brew_cluster.definition.rules import RULES, broken_rules
from brew_platform.errors import ConfigError

from .conftest import SEPARATE, Loaded, load

BROKEN = [
    # groups
    (["groups.data.role=head"], "2 groups have the role head"),
    (["groups.head.gpus=1", "groups.head.image=cuda"], "groups.head.gpus is 1"),
    (["groups.head.max_nodes=2"], "groups.head.max_nodes is 2"),
    (["groups.Bad_Name={role: data, cpus: 1, memory_gib: 16}"], "'Bad_Name'"),
    (["groups.headgroup={role: data, cpus: 1, memory_gib: 16}"], "choose another name"),
    (["mounts.A_B={path: /mnt/ab, claim: ab}"], "mounts has the name 'A_B'"),
    # images
    (["laptop", "groups.data.image=cuda"], "images.cuda has no value"),
    (["images.cpu=registry.example.com:5000/brew360"], "fixed tag"),
    (["images.cpu=brew360:latest"], "fixed tag"),
    (["groups.train.image=cpu"], "set image: cuda"),
    (["ray_version=2.50.0"], "ray_version is 2.50.0"),
    # GPUs, starvation
    (["gpus=575"], "train 512 + nearline 16 + online 48 = 576 GPUs, but gpus is 575"),
    (["groups.train.priority=200000"], "serving would wait for training"),
    (["groups.train.node_selector={pool: h100-serve}"], "select the same GPU machines"),
    (["groups.head.priority=5"], "the head, has a lower priority"),
    # mounts
    (["mounts.runs.path=/mnt/data/runs"], "overlap"),
    (["mounts.runs.path=/dev/shm"], "the image uses /dev"),
    (["service.settings=[registry_url=/srv/registry]"], "service.registry_url is /srv/registry, which is on no mount"),
    (["s3=null"], "has no s3"),
    (["training.settings=[data=/mnt/data/v1, run=/mnt/local/run]"], "in the cache"),
    # programs
    (["groups.nearline.role=data"], "the nearline service needs a group with the role nearline"),
    (["groups.train.max_nodes=31", "groups.train.min_nodes=31"], "training needs 256 processes of 1 GPUs"),
    (["groups.online.min_nodes=2"], "more than the nodes that are always up (online: 2)"),
    (["laptop", "groups.online.min_nodes=1", "groups.online.max_nodes=1"], "a new model version of the online service"),
    (["groups.train.gpus=6", "groups.train.max_nodes=85"], "set train.workers to a multiple of 6"),
    (["groups.online.gpus=7"], "3 stay idle"),
    # security
    (["token=false", "network=null"], "run code here"),
    (["service.recipe=null", "service.settings=[registry_url=/mnt/runs/r]"], "keys_path has no value"),
    (["network.api_server=null"], "network.api_server has no value"),
    (["groups.train.environment={RAY_AUTH_MODE: disabled}"], "which KubeRay sets"),
    (["groups.train.environment={NCCL_IB_HCA: mlx4}"], "other settings give mlx5"),
    (["groups.train.instance_type=null"], "instance_type has no value, but ray_up is set"),
    (["groups.nearline.max_nodes=1"], "the nearline service needs 4 processes of 4 GPUs"),
    # job gateway
    (SEPARATE[:1], "in the topology separate each job is a cluster of its own"),
    (["job_gateway.settings=[store=s3://b/jobs, host=0.0.0.0]"], "sets host, which the renderings derive"),
    (["job_gateway.settings=[store=s3://b/jobs, gpus=513]"], "gpus=513, but the data and train groups have at"),
    (["laptop", "job_gateway.settings=[store=s3://b/jobs, cpus=4]"], "cpus=4, but the data and train groups"),
    (["job_gateway.settings=[store=s3://b/jobs, port=8265]"], "port=8265, which the head uses (dashboard)"),
    (["job_gateway.settings=[store=s3://b/jobs, port=8000]"], "which the head uses (the ranking service)"),
    (["job_gateway.settings=[store=s3://b/jobs, port=443]"], "set one from 1,024 on"),
    (["job_gateway.settings=[folder=/mnt/runs/teams]"], "job_gateway.store is runs/jobs, which is on no mount"),
    (["job_gateway.settings=[store=s3://b/jobs, folder=/mnt/local/teams]"], "job_gateway.folder is /mnt/local/teams"),
    (["job_gateway.cpus=17"], "job_gateway.cpus is 17"),
    (["job_gateway.memory_gib=65"], "job_gateway.memory_gib is 65"),
    (["job_gateway.signing_secret=brew360-keys"], "every job could sign as the gateway"),
    (["network.submitters=[]"], "network.submitters is empty"),
    # queues
    ([SEPARATE[1]], "set topology: separate"),
    ([*SEPARATE, "queues.teams.feed.gpus=500"], "the teams' quotas are 628 GPUs, but the train groups have 512"),
    ([*SEPARATE, "queues.teams={feed: {gpus: 64, borrow_gpus: 64}}"], "Kueue would never admit it"),
]  # fmt: skip


def load_case(overrides: list[str]) -> Loaded:
    """Load the named definition with overrides; h100_512 if none is named."""
    return load(*overrides) if "=" not in overrides[0] else load("h100_512", *overrides)


def test_the_definitions_that_ship_break_no_rule(h100: Loaded, separate: Loaded, laptop: Loaded) -> None:
    for config, programs in (h100, separate, laptop):
        assert broken_rules(config, programs) == []


@pytest.mark.parametrize(("overrides", "words"), BROKEN)
def test_a_broken_rule_is_a_sentence_with_a_remedy(overrides: list[str], words: str) -> None:
    sentences = broken_rules(*load_case(overrides))
    [sentence] = [sentence for sentence in sentences if words in sentence][:1] or [f"missing in {sentences}"]
    assert words in sentence
    assert sentence.endswith(".")
    assert ";" in sentence or ". " in sentence  # the remedy


def test_every_rule_is_broken_by_a_case() -> None:
    broken = set()
    for overrides, _ in BROKEN:
        loaded = load_case(overrides)
        broken |= {rule for rule in RULES if list(rule(*loaded))}
    assert broken == set(RULES)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nam=x", "Did you mean name"),
        ("groups.train.gpu=8", "Did you mean groups.train.gpus"),
        ("groups.train.min_nodes=65", "groups.train.min_nodes is 65, more than max_nodes"),
        ("groups.train.shared_memory_gib=2000", "part of memory_gib"),
        ("name=Brew_360", "a-z, 0-9 and -"),
        ("redis.address=redis://user:secret@host:6379", "the password in the Kubernetes secret"),
        ("network.api_server.cidr=10.0.0.1/8", "give a network"),
        ("mounts.runs.path=/mnt/../etc", "an absolute path"),
        ("topology=both", "one of shared, separate"),
        ("groups.train.idle_seconds=1", "at least 60"),
        ("groups.train.environment={A B: c}", "letters, digits and _"),
    ],
)
def test_a_malformed_setting_is_refused_when_it_is_loaded(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        load("h100_512", override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.recipe=nonsense", "training: nonsense is neither"),
        ("training.settings=[train.worker=2]", "training: unknown key train.worker"),
        ("service.settings=[port=0]", "service: port is 0"),
        ("job_gateway.settings=[stor=s3://b/jobs]", "job_gateway: unknown key stor"),
        ("job_gateway.settings=[port=70000]", "job_gateway: port is 70000"),
        ("training.recipe=null", "training.recipe has no value"),
    ],
)
def test_settings_of_programs_are_checked(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load("h100_512", override)
