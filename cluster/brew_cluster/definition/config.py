"""The cluster definition: node groups, images, storage, security, queues, and the programs that the cluster is for."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Range, Settings

__all__ = [
    "PRIORITIES",
    "ROLES",
    "CacheConfig",
    "ClusterConfig",
    "DnsLabel",
    "EgressConfig",
    "InfinibandConfig",
    "JobGatewayConfig",
    "MountConfig",
    "NetworkConfig",
    "NodeGroup",
    "ProgramConfig",
    "QueueConfig",
    "RayUpConfig",
    "RedisConfig",
    "S3Config",
    "TeamConfig",
    "VolumeConfig",
]

ROLES = ("head", "data", "train", "nearline", "online")
# Pod priorities by role. Serving preempts training, never the reverse.
PRIORITIES = {"head": 1_000_000, "online": 100_000, "nearline": 50_000, "train": 10_000, "data": 1_000}
_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_LABEL = 40  # characters; KubeRay appends up to 22, and Kubernetes names have at most 63
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class DnsLabel:
    """The rule of names of Kubernetes objects."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= _LONGEST_LABEL and _DNS_LABEL.fullmatch(value) is not None

    def __str__(self) -> str:
        return f"a-z, 0-9 and -, starting with a letter, ending with a letter or digit, at most {_LONGEST_LABEL}"


@dataclass(frozen=True)
class AbsolutePath:
    """The rule of paths in containers."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(r"(/[A-Za-z0-9._-]+)+", value) is not None and ".." not in value

    def __str__(self) -> str:
        return "an absolute path such as /mnt/runs, without .. and without a slash at its end"


KubernetesName = Annotated[str, DnsLabel()]
ContainerPath = Annotated[str, AbsolutePath()]
Port = Annotated[int, Range(ge=1, le=65_535)]
IdleSeconds = Annotated[int, Range(ge=60, le=2_147_483_647)]


@dataclass(frozen=True, kw_only=True)
class InfinibandConfig(Settings):
    """InfiniBand, or RoCE, of the nodes of a group; NCCL's variables are derived from it."""

    resource: str = "rdma/hca_shared_devices_a"  # of the RDMA device plugin, requested once per pod
    hcas: str = "mlx5"  # NCCL_IB_HCA: prefix or list of the host channel adapters
    interface: str = "eth0"  # NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME: network interface of bootstrap and of gloo
    gid_index: Annotated[int, Range(ge=0, le=255)] | None = None  # NCCL_IB_GID_INDEX; RoCE v2 usually needs 3


@dataclass(frozen=True, kw_only=True)
class NodeGroup(Settings):
    """Nodes of one kind. One Ray node is one pod, which takes a whole machine where it has GPUs."""

    role: Annotated[str, OneOf(ROLES)]  # what runs there
    min_nodes: NonNegativeInt = 0  # that are always up
    max_nodes: Annotated[int, Range(ge=1, le=10_000)] = 1  # up to which the autoscaler adds nodes
    cpus: PositiveInt  # CPU cores of a node
    memory_gib: PositiveFloat  # RAM of a node
    # /dev/shm of a node: Ray's object store, and NCCL's buffers between processes. Counts as memory.
    shared_memory_gib: PositiveFloat = 8.0
    gpus: Annotated[int, Range(ge=0, le=16)] = 0  # GPUs of a node
    gpu_type: str | None = None  # Ray's accelerator type, such as H100
    gpu_memory_gib: PositiveFloat | None = None  # of each GPU
    nvlink_gbytes_per_s: PositiveFloat | None = None  # between two GPUs of a node, in one direction
    network_gbits_per_s: PositiveFloat | None = None  # of a node to other nodes, in one direction
    price_per_hour: PositiveFloat | None = None  # of a node, in any currency
    image: Annotated[str, OneOf(("cpu", "cuda"))] = "cpu"  # which entry of `images`
    idle_seconds: IdleSeconds = 600  # after which the autoscaler removes an unused node above min_nodes
    priority: Annotated[int, Range(ge=0, le=1_000_000_000)] | None = None  # of its pods; null: by role
    infiniband: InfinibandConfig | None = None  # null: Ethernet only
    environment: dict[str, str] = field(default_factory=dict)  # environment variables of Ray's processes
    node_selector: dict[str, str] = field(default_factory=dict)  # labels of the Kubernetes nodes
    tolerations: list[str] = field(default_factory=list)  # keys of taints of the Kubernetes nodes
    instance_type: str | None = None  # machine type of the cloud, for `ray up`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_nodes > self.max_nodes:
            raise ConfigError(
                f"min_nodes is {self.min_nodes}, more than max_nodes ({self.max_nodes}); raise max_nodes."
            )
        if self.shared_memory_gib >= self.memory_gib:
            raise ConfigError(
                f"shared_memory_gib is {self.shared_memory_gib:g}, but /dev/shm is part of memory_gib "
                f"({self.memory_gib:g}), which processes need too; give less than memory_gib."
            )
        for name in self.environment:
            if not _ENVIRONMENT.fullmatch(name):
                raise ConfigError(f"environment has {name!r}; give names of letters, digits and _.")

    @property
    def pod_priority(self) -> int:
        """The priority of the group's pods."""
        return PRIORITIES[self.role] if self.priority is None else self.priority


@dataclass(frozen=True, kw_only=True)
class VolumeConfig(Settings):
    """A volume claim that the renderings create."""

    size_gib: PositiveInt  # of the volume
    storage_class: str | None = None  # null: the default class of the Kubernetes cluster; it must offer access_mode
    # ReadWriteOnce is for a Kubernetes cluster of one machine.
    access_mode: Annotated[str, OneOf(("ReadWriteMany", "ReadWriteOnce"))] = "ReadWriteMany"


@dataclass(frozen=True, kw_only=True)
class MountConfig(Settings):
    """A shared file system, mounted on all nodes under the same path: run folders need that."""

    path: ContainerPath  # in containers; with `ray up` also on the hosts
    claim: KubernetesName  # volume claim that provides it
    read_only: bool = False  # pods cannot write to it
    create: VolumeConfig | None = None  # null: the claim exists already


@dataclass(frozen=True, kw_only=True)
class CacheConfig(Settings):
    """The cache of each host: downloaded versions and bins, which processes of the host share."""

    path: ContainerPath = "/mnt/cache"  # where pods mount it
    size_gib: PositiveInt = 100  # limit of the volume
    # Folder of the host, on its local disk: survives pods. null: a volume of the pod, deleted with it.
    host_path: ContainerPath | None = None


@dataclass(frozen=True, kw_only=True)
class RedisConfig(Settings):
    """The Redis that holds the head's state, so that a new head pod continues the cluster."""

    address: str  # redis://host:6379, or rediss:// with TLS
    secret: KubernetesName | None = None  # Kubernetes secret whose key `password` is the password

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"rediss?://[^/@\s]+:\d+", self.address):
            raise ConfigError(
                f"address is {self.address!r}; give redis://HOST:PORT or rediss://HOST:PORT, and the password in the "
                f"Kubernetes secret that `secret` names."
            )


@dataclass(frozen=True, kw_only=True)
class S3Config(Settings):
    """Object storage of registry, data and checkpoints; boto3 reads the variables that are set from it."""

    endpoint: str | None = None  # AWS_ENDPOINT_URL; null: Amazon S3
    region: str | None = None  # AWS_DEFAULT_REGION
    # Kubernetes secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. null: the role of the service account.
    secret: KubernetesName | None = None


@dataclass(frozen=True, kw_only=True)
class EgressConfig(Settings):
    """Addresses outside the cluster that its pods may connect to."""

    cidr: str  # such as 10.2.0.0/16
    ports: list[Port] = field(default_factory=lambda: [443])  # TCP

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            ipaddress.ip_network(self.cidr)
        except ValueError as error:
            raise ConfigError(f"cidr is {self.cidr!r} ({error}); give a network such as 10.2.0.0/16.") from error


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Settings):
    """The connections that the cluster's pods accept and make; all others are denied."""

    clients: list[KubernetesName] = field(default_factory=list)  # namespaces that may call the ranking service
    submitters: list[KubernetesName] = field(default_factory=list)  # namespaces that may call the job gateway
    # Namespaces that may reach the dashboard's port: Jobs, Serve's REST interface. With the token, a caller of it runs
    # code in the cluster. The gateway of `job_gateway` needs no entry.
    gateways: list[KubernetesName] = field(default_factory=list)
    monitoring: KubernetesName | None = "monitoring"  # namespace of Prometheus
    operator: KubernetesName = "kuberay-system"  # namespace of the KubeRay operator
    # The Kubernetes API, for the autoscaler: address of its endpoint, as `kubectl get endpointslices -n default` shows.
    api_server: EgressConfig | None = None
    egress: dict[str, EgressConfig] = field(default_factory=dict)  # storage, Redis and other services, by name


@dataclass(frozen=True, kw_only=True)
class TeamConfig(Settings):
    """A team that submits jobs with clusters of their own."""

    gpus: NonNegativeInt = 0  # that the team can always have
    borrow_gpus: NonNegativeInt = 0  # of other teams, while those do not use them
    cpus: PositiveInt = 64  # that its jobs may use
    memory_gib: PositiveInt = 256  # that its jobs may use


@dataclass(frozen=True, kw_only=True)
class QueueConfig(Settings):
    """Kueue's queues; Kueue admits a job when all its nodes fit into the quota of its team."""

    teams: dict[str, TeamConfig] = field(default_factory=dict)  # by name
    priorities: dict[str, Annotated[int, Range(ge=0, le=1_000_000)]] = field(
        default_factory=lambda: {"normal": 1_000, "low": 100, "high": 10_000}
    )  # of jobs within a team; the rendered job has the first


@dataclass(frozen=True, kw_only=True)
class ProgramConfig(Settings):
    """A program that runs on the cluster: the arguments of its command."""

    recipe: str | None = None  # name of a recipe that ships, or path of a YAML file; null: the default of the command
    settings: list[str] = field(default_factory=list)  # key=value, as on the command line


@dataclass(frozen=True, kw_only=True)
class JobGatewayConfig(Settings):
    """The gateway to which teams submit jobs: `brew360 jobs serve`, on the machines of the head's group."""

    # key=value of the command, such as store=s3://bucket/jobs. Without gpus and cpus, jobs can use those of all nodes
    # of the roles data and train.
    settings: list[str] = field(default_factory=list)
    replicas: Annotated[int, Range(ge=1, le=20)] = 2  # pods, which share the ledger; the other targets start one
    cpus: PositiveFloat = 1.0  # CPU cores of a replica
    memory_gib: PositiveFloat = 2.0  # RAM of a replica
    # Kubernetes secret whose key `keys.yaml` is the key file
    keys_secret: KubernetesName = "brew360-keys"  # noqa: S105  a name
    # Kubernetes secret whose key `signing_key` signs the metadata of Ray jobs
    signing_secret: KubernetesName = "brew360-signing"  # noqa: S105  a name
    tls_secret: KubernetesName | None = None  # Kubernetes secret of the type kubernetes.io/tls; null: plain HTTP


@dataclass(frozen=True, kw_only=True)
class RayUpConfig(Settings):
    """Where `ray up` starts machines."""

    provider: Annotated[str, OneOf(("aws", "gcp", "azure"))] = "aws"  # cloud
    region: str = "us-east-1"  # of the cloud
    settings: dict[str, str] = field(default_factory=dict)  # other fields of Ray's provider section
    ssh_user: str = "ubuntu"  # of the machines
    token_file: str = "~/.ray/auth_token"  # noqa: S105  token of this machine, copied to all nodes; a random text


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Settings):
    """One cluster: `brew360 cluster render` writes it for KubeRay, `ray up`, Helm or one machine.

    In the topology `shared`, one RayCluster hosts data, training and serving, and takes jobs. In `separate`,
    serving is a RayService, and each job is a RayJob with nodes of its own, which Kueue admits.
    """

    name: KubernetesName = "brew360"  # of the Ray cluster, and prefix of other objects
    namespace: KubernetesName = "brew360"  # of Kubernetes
    topology: Annotated[str, OneOf(("shared", "separate"))] = "shared"  # one Ray cluster, or one for each purpose
    gpus: NonNegativeInt = 0  # that the cluster may have in total; the groups' max_nodes must fit in
    ray_version: str = "2.60.0"  # of the images; must be the version of requirements/
    images: dict[str, str] = field(default_factory=dict)  # cpu, cuda: name and tag
    pull_secret: KubernetesName | None = None  # Kubernetes secret of the image registry
    groups: dict[str, NodeGroup] = field(default_factory=dict)  # by name
    mounts: dict[str, MountConfig] = field(default_factory=dict)  # on all nodes, by name
    cache: CacheConfig | None = None  # on all nodes
    s3: S3Config | None = None  # object storage
    secrets: dict[str, ContainerPath] = field(default_factory=dict)  # Kubernetes secrets, mounted on all nodes: path
    redis: RedisConfig | None = None  # null: the loss of the head ends the cluster
    token: bool = True  # clients need the cluster's token, which KubeRay creates
    tls: bool = False  # encrypt Ray's own connections, with certificates of cert-manager
    network: NetworkConfig | None = None  # null: every pod of the Kubernetes cluster can connect
    service_account_annotations: dict[str, str] = field(default_factory=dict)  # such as a role of the cloud
    queues: QueueConfig | None = None  # of the topology `separate`
    training: ProgramConfig | None = None  # `brew360 train`
    service: ProgramConfig | None = None  # `brew360 serve up`
    job_gateway: JobGatewayConfig | None = None  # `brew360 jobs serve`, of the topology `shared`
    ray_up: RayUpConfig | None = None  # machines of `ray up`

    def of_role(self, role: str) -> dict[str, NodeGroup]:
        """Return the groups of a role, by name."""
        return {name: group for name, group in self.groups.items() if group.role == role}
