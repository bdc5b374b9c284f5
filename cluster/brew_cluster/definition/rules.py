"""The project's rules for a cluster definition. Each broken rule is a sentence that says what to do."""

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from brew_cluster.definition.config import ClusterConfig, DnsLabel, NodeGroup
from brew_cluster.definition.job_gateway import DERIVED, job_cpus, job_gpus
from brew_cluster.definition.placement import nodes_of, place
from brew_cluster.definition.pods import JOB_ROLES, SERVE_ROLES, environment
from brew_cluster.definition.programs import Demand, Programs

__all__ = ["RULES", "broken_rules"]

_RESERVED_PATHS = ("/dev", "/proc", "/sys", "/tmp/ray", "/home/ray", "/app", "/etc")  # noqa: S108
_RESERVED_GROUPS = ("head", "headgroup")  # KubeRay and Kueue use these names for the head
_RESERVED_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS", "RAY_ADDRESS")
# Ports of the head: Ray's own, those of its exporters and agents, and that of Serve's proxies, which is a setting
_HEAD_PORTS = {6379: "GCS", 8080: "metrics", 8265: "dashboard", 10001: "client", 44217: "autoscaler", 44227: "metrics",
               52365: "agent"}  # fmt: skip
_LEAST_PORT = 1_024  # that a process without privileges can use
_MOST_WORKER_GROUPS = 7  # of a job that Kueue admits

Rule = Callable[[ClusterConfig, Programs], Iterator[str]]


def broken_rules(config: ClusterConfig, programs: Programs) -> list[str]:
    """Return a sentence for each rule that a definition breaks; none if it is valid."""
    return [sentence for rule in RULES for sentence in rule(config, programs)]


def head(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """There is one head, which has one node and no GPU."""
    heads = config.of_role("head")
    if len(heads) != 1:
        yield f"{len(heads)} groups have the role head; a Ray cluster has one. Give exactly one group that role."
    for name, group in heads.items():
        if group.gpus:
            yield f"groups.{name}.gpus is {group.gpus}, but the head runs no tasks; set it to 0."
        if group.max_nodes != 1:
            yield f"groups.{name}.max_nodes is {group.max_nodes}, but there is one head; set it to 1."


def names(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Names of groups, mounts and teams are valid names of Kubernetes objects."""
    label = DnsLabel()
    teams = {} if config.queues is None else config.queues.teams
    for kind, keys in (
        ("groups", config.groups), ("mounts", config.mounts), ("secrets", config.secrets), ("queues.teams", teams),
    ):  # fmt: skip
        for name in keys:
            if not label.accepts(name):
                yield f"{kind} has the name {name!r}; use {label}."
    for name, group in config.groups.items():
        if name in _RESERVED_GROUPS and group.role != "head":
            yield f"groups.{name} has the name of the head, but the role {group.role}; choose another name."
        if len(config.name) + len(name) > 45:
            yield f"groups.{name}: the name of a pod would be too long; shorten {name!r} or {config.name!r}."


def images(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Every group has an image with a fixed tag, GPU groups the CUDA image, of the pinned version of Ray."""
    for kind in sorted({group.image for group in config.groups.values()}):
        image = config.images.get(kind)
        if image is None:
            yield f"images.{kind} has no value, but groups use it; give the name and tag of the image."
        elif "@sha256:" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
            yield f"images.{kind} is {image}, which can change between two pods; give a fixed tag or a digest."
    for name, group in config.groups.items():
        if group.gpus and group.image != "cuda":
            yield f"groups.{name} has GPUs, but the image {group.image}, which cannot use them; set image: cuda."
    installed = importlib.metadata.version("ray")
    if config.ray_version != installed:
        yield (
            f"ray_version is {config.ray_version}, but brew360 is tested with {installed}, and jobs need the cluster's "
            f"version; set it to {installed} and build the images from requirements/."
        )


def gpus_add_up(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """The groups' GPUs at their largest sizes fit into the total."""
    sizes = {name: group.max_nodes * group.gpus for name, group in config.groups.items() if group.gpus}
    total = sum(sizes.values())
    if total > config.gpus:
        parts = " + ".join(f"{name} {count}" for name, count in sizes.items())
        yield (
            f"the groups can grow to {parts} = {total:,} GPUs, but gpus is {config.gpus:,}, so that training and "
            f"serving would take them from each other; lower max_nodes of a group, or raise gpus."
        )


def no_starvation(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Training and serving have machines and priorities of their own."""
    serving = {name: group for name, group in config.groups.items() if group.role in SERVE_ROLES}
    training = {name: group for name, group in config.groups.items() if group.role in JOB_ROLES}
    for name, group in serving.items():
        for other, rival in training.items():
            if group.pod_priority <= rival.pod_priority:
                yield (
                    f"groups.{name} has priority {group.pod_priority:,} and groups.{other} {rival.pod_priority:,}, so "
                    f"that serving would wait for training; raise groups.{name}.priority."
                )
            if group.gpus and rival.gpus and not _disjoint(group.node_selector, rival.node_selector):
                yield (
                    f"groups.{name} and groups.{other} select the same GPU machines, so that one can take those of the "
                    f"other; label the machines, and set node_selector of both."
                )
    for name, group in config.of_role("head").items():
        if rivals := [other for other, rival in config.groups.items() if rival.pod_priority > group.pod_priority]:
            yield f"groups.{name}, the head, has a lower priority than {rivals[0]}; raise groups.{name}.priority."


def mounts(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Paths of mounts, cache and secrets are distinct, and programs use only paths that exist on all nodes."""
    paths = {f"mounts.{name}": mount.path for name, mount in config.mounts.items()}
    paths |= {f"secrets.{name}": path for name, path in config.secrets.items()}
    if config.cache is not None:
        paths["cache"] = config.cache.path
    for index, (name, path) in enumerate(paths.items()):
        if reserved := next((folder for folder in _RESERVED_PATHS if _is_below(path, folder)), None):
            yield f"{name} is mounted at {path}, but the image uses {reserved}; choose a path such as /mnt/data."
        for other, rival in list(paths.items())[:index]:
            if _is_below(path, rival) or _is_below(rival, path):
                yield f"{name} ({path}) and {other} ({rival}) overlap, so that one hides the other; move one of them."
    for setting, path in programs.paths():
        if path.startswith("s3://"):
            if config.s3 is None:
                yield f"{setting} is {path}, but the definition has no s3; set s3.region or s3.endpoint."
        elif "://" not in path and path and not any(_is_below(path, folder) for folder in paths.values()):
            yield (
                f"{setting} is {path}, which is on no mount, so that other nodes do not have it; use a path below "
                f"{_listed(sorted(paths.values()), 'a mount')}, or s3://."
            )
        elif config.cache is not None and _is_below(path, config.cache.path):
            yield f"{setting} is {path}, in the cache, which each host has for itself; use a mount or s3://."


def fits(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """The programs fit on their groups: the gang at the largest size, serving also on the nodes that are always up."""
    for demand in programs.demands():
        groups = config.of_role(demand.role)
        if not groups:
            yield f"the {demand.program} needs a group with the role {demand.role}; add it to groups."
        elif _missing(config, demand, most=True):
            yield (
                f"the {demand.program} needs {_text(demand, demand.most)}, but {_capacity(groups)}; raise max_nodes, "
                f"or lower the number of processes."
            )
        elif not demand.gang and _missing(config, demand, largest=False):
            yield (
                f"the {demand.program} starts {_text(demand, demand.count)}, more than the nodes that are always up "
                f"({_listed([f'{name}: {group.min_nodes}' for name, group in groups.items()], '')}) take, so that it "
                f"could wait for machines; raise min_nodes."
            )
    for demand in programs.demands():
        twice = replace(demand, count=2 * demand.count, most=2 * demand.count)
        if not demand.gang and not _missing(config, demand, most=True) and _missing(config, twice):
            yield (
                f"a new model version of the {demand.program} starts beside the old one, and both need "
                f"{_text(twice, twice.count)}, but {_capacity(config.of_role(demand.role))}; raise max_nodes."
            )


def gangs(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """A training gang fills whole nodes, and engines of several GPUs divide them."""
    if programs.training is not None:
        workers = programs.training.train.workers
        for name, group in config.of_role("train").items():
            if group.gpus and workers > group.gpus and workers % group.gpus:
                yield (
                    f"training has {workers} workers, but nodes of groups.{name} have {group.gpus} GPUs, so that one "
                    f"would be partly empty; set train.workers to a multiple of {group.gpus}."
                )
    for demand in programs.demands():
        for name, group in config.of_role(demand.role).items():
            if not demand.gang and demand.gpus > 1 and group.gpus % demand.gpus:
                yield (
                    f"a replica of the {demand.program} takes {demand.gpus:g} GPUs, but nodes of groups.{name} have "
                    f"{group.gpus}, so that {group.gpus % demand.gpus:g} stay idle; choose a divisor."
                )


def security(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Nobody outside reaches the cluster's ports without a token or a key."""
    if not config.token and config.network is None:
        yield (
            "token is false and network has no value, so that every pod of the Kubernetes cluster could run code here; "
            "set token: true, or network."
        )
    if programs.service is not None and programs.service.middleware.keys_path is None:
        yield (
            "service.middleware.keys_path has no value, but a cluster's service listens for other machines; create "
            "keys with `brew360 keys create`, put the file into a secret, and name its path."
        )
    if config.network is not None:
        if config.network.api_server is None:
            yield (
                "network.api_server has no value, so that the autoscaler could not add nodes; give the address of the "
                "Kubernetes API (`kubectl get endpointslices -n default`)."
            )
        if config.redis is not None and not config.network.egress:
            yield "network.egress is empty, so that the head could not reach Redis; add its network and port."


def machines(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """With `ray_up`, every group has a type of machine."""
    for name, group in config.groups.items() if config.ray_up is not None else ():
        if group.instance_type is None:
            yield f"groups.{name}.instance_type has no value, but ray_up is set; set it, or remove ray_up."


def variables(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Groups do not set variables that the renderings derive from other settings."""
    for name, group in config.groups.items():
        derived = environment(config, replace(group, environment={}))
        for variable, value in group.environment.items():
            if variable in _RESERVED_VARIABLES:
                yield f"groups.{name}.environment sets {variable}, which KubeRay sets; remove it (see token and tls)."
            elif variable in derived and derived[variable] != value:
                yield (
                    f"groups.{name}.environment sets {variable}={value}, but other settings give {derived[variable]}; "
                    f"change those, or remove it."
                )


def queues(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """Kueue's limits on jobs, and quotas that add up."""
    if config.queues is None:
        return
    if config.topology != "separate":
        yield (
            "queues is set, but Kueue admits whole clusters, and in the topology shared all jobs run on one; set "
            "topology: separate, or remove queues."
        )
        return
    workers = [name for name, group in config.groups.items() if group.role in JOB_ROLES]
    if len(workers) > _MOST_WORKER_GROUPS:
        yield f"{len(workers)} groups have the roles data and train; Kueue admits jobs with at most 7. Merge some."
    for name in workers:
        if not config.groups[name].node_selector:
            yield f"groups.{name}.node_selector has no value, so that Kueue could not tell its machines; set it."
    gpus = sum(group.max_nodes * group.gpus for group in config.of_role("train").values())
    teams = config.queues.teams
    if (nominal := sum(team.gpus for team in teams.values())) > gpus:
        yield (
            f"the teams' quotas are {nominal:,} GPUs, but the train groups have {gpus:,}; lower queues.teams, or raise "
            f"max_nodes."
        )
    for demand in programs.demands():
        most = max((team.gpus + team.borrow_gpus for team in teams.values()), default=0)
        if demand.gang and demand.gpus and demand.count * demand.gpus > most:
            yield (
                f"training needs {demand.count * demand.gpus:g} GPUs, but no team can have more than {most}, so that "
                f"Kueue would never admit it; raise gpus or borrow_gpus of a team."
            )


def job_gateway(config: ClusterConfig, programs: Programs) -> Iterator[str]:
    """The job gateway gives jobs what their groups have, fits beside the head, and keeps its signing key to itself."""
    gateway, settings = config.job_gateway, programs.job_gateway
    if gateway is None or settings is None:
        return
    if config.topology != "shared":
        yield (
            "job_gateway is set, but in the topology separate each job is a cluster of its own, which Kueue admits; "
            "set topology: shared, or remove job_gateway."
        )
    names = [setting.partition("=")[0] for setting in gateway.settings]
    for name in names:
        if name in DERIVED:
            yield f"job_gateway.settings sets {name}, which the renderings derive; remove it (see tls_secret)."
    for name, value, most in (("gpus", settings.gpus, job_gpus(config)), ("cpus", settings.cpus, job_cpus(config))):
        if name in names and value > most:
            yield (
                f"job_gateway.settings has {name}={value:,}, but the data and train groups have at most {most:,}, so "
                f"that jobs would wait for nodes that never come; lower it, or remove it to use all."
            )
    if (use := {**_HEAD_PORTS, programs.port: "the ranking service"}.get(settings.port)) is not None:
        yield f"job_gateway.settings has port={settings.port}, which the head uses ({use}); set another one."
    if settings.port < _LEAST_PORT:
        yield f"job_gateway.settings has port={settings.port}, but the gateway is not root; set one from 1,024 on."
    for name, group in config.of_role("head").items():
        sizes = {"cpus": (gateway.cpus, group.cpus), "memory_gib": (gateway.memory_gib, group.memory_gib)}
        for resource, (size, largest) in sizes.items():
            if size > largest:
                yield (
                    f"job_gateway.{resource} is {size:g}, but it runs on machines like those of groups.{name}, which "
                    f"have {largest:g}; lower it."
                )
    if gateway.signing_secret in config.secrets:
        yield (
            f"job_gateway.signing_secret is {gateway.signing_secret}, which `secrets` mounts on all nodes, so that "
            f"every job could sign as the gateway; use a secret of its own."
        )
    if config.network is not None and not config.network.submitters:
        yield "network.submitters is empty, so that nobody could reach the job gateway; name the namespaces."


RULES: tuple[Rule, ...] = (
    head, names, images, gpus_add_up, no_starvation, mounts, fits, gangs, security, machines, variables, queues,
    job_gateway,
)  # fmt: skip


def _missing(config: ClusterConfig, demand: Demand, *, largest: bool = True, most: bool = False) -> int:
    return place(nodes_of(config, largest=largest), [demand], most=most).missing[demand.program]


def _text(demand: Demand, count: int) -> str:
    size = f"{demand.gpus:g} GPUs" if demand.gpus else f"{demand.cpus:g} CPUs"
    return f"{count} processes of {size}"


def _capacity(groups: dict[str, NodeGroup]) -> str:
    return " and ".join(
        f"{name} has at most {group.max_nodes} nodes of {group.cpus} CPUs and {group.gpus} GPUs"
        for name, group in groups.items()
    )


def _is_below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _disjoint(selector: dict[str, str], other: dict[str, str]) -> bool:
    """Return whether no machine can have the labels of both selectors."""
    return any(other.get(key, value) != value for key, value in selector.items())


def _listed(items: list[str], empty: str) -> str:
    return ", ".join(items) or empty
