# SuperLink, its proxy and the distribution service: one image, three commands (see compose.yaml).
# Build from the repository's root: docker build -f deploy/containers/server.Dockerfile -t feddsv-server .
FROM nvidia/cuda:12.6.3-base-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The versions of the system's packages are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl nginx-light python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/feddsv feddsv \
    && install --directory --owner feddsv /var/lib/feddsv/releases

WORKDIR /opt/feddsv
COPY pyproject.toml README.md LICENSE ./
COPY dsv dsv
COPY protos protos
COPY client client
COPY server server
COPY deploy deploy
RUN python3 -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir "uv==0.12.20" \
    && .venv/bin/uv pip install --no-cache --python .venv/bin/python --editable ".[server]"

ENV PATH="/opt/feddsv/.venv/bin:${PATH}" PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/feddsv
VOLUME /var/lib/feddsv
EXPOSE 9093 50061
# Of the SuperLink; compose.yaml has those of the others.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--cacert", "/certs/authority.crt", "https://localhost:9092/health"]
ENTRYPOINT ["dsv"]
CMD ["deploy", "superlink", "--certs", "/certs", "--state", "/var/lib/feddsv/superlink"]
