# Image of the CPU nodes. From the repository's root:
#   docker build -f cluster/docker/cpu.Dockerfile -t registry.example.com/brew360:0.1.0-cpu .
FROM python:3.11-slim-bookworm

# wget: KubeRay's health probes; g++, libgomp, libnuma: PyTorch and vLLM
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash ca-certificates g++ libgomp1 libnuma1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home ray

WORKDIR /build
COPY requirements/cpu.txt requirements/
# PyTorch's own index has the build without CUDA
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --no-deps --index-url $TORCH_INDEX $(grep -E '^torch==' requirements/cpu.txt) \
 && pip install --no-cache-dir --no-deps -r requirements/cpu.txt

COPY pyproject.toml README.md LICENSE ./
COPY platform platform
COPY data data
COPY train train
COPY serve serve
COPY evaluation evaluation
COPY cluster cluster
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf /build

USER 1000:1000
WORKDIR /home/ray
ENV PYTHONUNBUFFERED=1 RAY_TRAIN_V2_ENABLED=1 RAY_USAGE_STATS_ENABLED=0
CMD ["brew360", "--help"]
