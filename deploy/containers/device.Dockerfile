# A device's SuperNode, for amd64 and arm64. Build from the repository's root:
# docker buildx build --platform linux/amd64,linux/arm64 -f deploy/containers/device.Dockerfile -t feddsv-device .
FROM python:3.12-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The versions of the system's packages are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/feddsv feddsv

WORKDIR /opt/feddsv
COPY pyproject.toml README.md LICENSE ./
COPY dsv dsv
COPY protos protos
COPY client client
COPY server server
COPY deploy deploy
# torch without CUDA: a tenth of the size.
RUN python3 -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir "uv==0.12.20" \
    && .venv/bin/uv pip install --no-cache --torch-backend cpu --python .venv/bin/python --editable ".[client]"

ENV PATH="/opt/feddsv/.venv/bin:${PATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
USER 10001:10001
WORKDIR /var/lib/feddsv
VOLUME /var/lib/feddsv
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["curl", "--fail", "--silent", "http://127.0.0.1:9094/health"]
ENTRYPOINT ["dsv"]
CMD ["deploy", "supernode", "--keys", "/keys", "--server", "server:9093", "--data", "/data", "--state", "/var/lib/feddsv/supernode"]
