# syntax=docker/dockerfile:1
# Two images. The smaller one runs bundles and has no PyTorch; the larger one also exports and verifies. docs/how-to/use-docker.md
#   docker build --target run -t diffoundry .
#   docker build --target export -t diffoundry-export .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheels
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source /source/models

FROM python:${PYTHON}-slim AS run
# Engines and commands that are installed: the extras of docs/get-started/install.md.
ARG EXTRAS=onnxruntime,cli
COPY constraints.txt /tmp/constraints.txt
RUN --mount=from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /wheels/diffoundry-[0-9]*.whl)[${EXTRAS}]"
# Any user may run it: caches are below /tmp, files are read and written in the mounted folder.
ENV HOME=/tmp
WORKDIR /work
USER 1000
ENTRYPOINT ["diffoundry"]

FROM run AS export
USER root
ARG EXTRAS=onnxruntime,cli
# PyTorch's index of CPU builds makes this image several GB smaller.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /wheels/diffoundry-[0-9]*.whl)[${EXTRAS},export,report]" /wheels/diffoundry_models-*.whl
USER 1000

# `docker build .` without --target makes the smaller image.
FROM run
