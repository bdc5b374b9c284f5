# Image of the GPU nodes, with the same versions. From the repository's root:
#   docker build -f cluster/docker/cuda.Dockerfile -t registry.example.com/brew360:0.1.0-cuda .
# CUDA comes with PyTorch's packages, and the driver from the host. flash-attn is compiled (about an hour).
FROM python:3.11-slim-bookworm

# wget: KubeRay's health probes; g++: Triton and flash-attn; ibverbs, rdmacm: NCCL over InfiniBand
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash ca-certificates g++ ibverbs-providers libgomp1 libibverbs1 libnuma1 \
      librdmacm1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home ray

WORKDIR /build
COPY requirements/cuda.txt requirements/
ENV CUDA_HOME=/usr/local/lib/python3.11/site-packages/nvidia/cu13
# flash-attn is compiled against the installed PyTorch, so it comes last
ARG MAX_JOBS=8
RUN grep -v '^flash-attn==' requirements/cuda.txt > requirements/others.txt \
 && pip install --no-cache-dir --no-deps -r requirements/others.txt \
 && pip install --no-cache-dir --no-deps --no-build-isolation $(grep -E '^flash-attn==' requirements/cuda.txt)

COPY pyproject.toml README.md LICENSE ./
COPY platform platform
COPY data data
COPY train train
COPY serve serve
COPY evaluation evaluation
COPY cluster cluster
RUN pip install --no-cache-dir --no-deps . && rm -rf /build

USER 1000:1000
WORKDIR /home/ray
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PYTHONUNBUFFERED=1 RAY_TRAIN_V2_ENABLED=1 RAY_USAGE_STATS_ENABLED=0
CMD ["brew360", "--help"]
