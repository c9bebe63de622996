# The operator's image. `make image` builds it; docs/guide/image.md says what is in it and what each part weighs.
#
# BASE is a Debian or a descendant with Python 3.11 or newer in its packages. The operator's image takes from it only the
# files that Python needs; pin it by digest (BASE=debian:bookworm-slim@sha256:…) to build the same image again.
ARG BASE=docker.io/library/debian:bookworm-slim

# ---- build: has pip, a shell and the network; of it only what the stages below copy out is shipped ----
FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN dpkg --status ca-certificates python3 python3-venv > /dev/null 2>&1 \
    || { apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv; }
COPY requirements/build.txt requirements/runtime.txt /src/requirements/
COPY image/pip.sh /src/image/
# Wheels only, each with a hash of the lock: nothing is compiled and no package's own build script runs.
RUN --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/build && python3 -m venv --without-pip /opt/selvedge \
    && sh /src/image/pip.sh /opt/build -r /src/requirements/build.txt \
    && sh /src/image/pip.sh /opt/selvedge -r /src/requirements/runtime.txt
COPY image/trim.py image/rootfs.py /src/image/
RUN python3 /src/image/trim.py /opt/selvedge && python3 /src/image/rootfs.py base /opt/selvedge /rootfs
# The operator itself becomes a layer of its own: a new release is a small pull.
COPY LICENSE README.md pyproject.toml /src/
COPY operator/ /src/operator/
RUN /opt/build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /opt/wheel /src \
    && /opt/build/bin/pip --python /opt/selvedge/bin/python3 install --quiet --no-index --no-deps --no-compile /opt/wheel/*.whl \
    && python3 /src/image/rootfs.py selvedge /opt/selvedge /rootfs
# buildah would take a label that it kept of an earlier build: with another revision, another file is copied before it.
ARG REVISION=unknown
RUN mkdir -p /rootfs/selvedge/usr/share/selvedge && echo "${REVISION}" > /rootfs/selvedge/usr/share/selvedge/revision

# ---- tools: the operator's programs beside the databases' own, with a shell, for Jobs ----
FROM ${BASE} AS tools
# Package names; pg_dump must be at least as new as the servers it reads, and bookworm's is 15. MongoDB's tools are in
# no Debian release. image/tools-base.Dockerfile is a BASE with the package repositories of both.
ARG POSTGRES_CLIENT=postgresql-client
ARG MONGODB_TOOLS=
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 zstd ${POSTGRES_CLIENT} ${MONGODB_TOOLS} \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/apt /var/log/dpkg.log
COPY --from=build /rootfs/libraries/ /
COPY --from=build /rootfs/selvedge/ /
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Selvedge tools" \
      org.opencontainers.image.description="The commands of Selvedge beside the client programs of Postgres and MongoDB." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/selvedge/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/opt/selvedge/bin/selvedge"]

# ---- operator: no shell, no package manager, no compiler, no pip ----
FROM scratch AS operator
COPY --from=build /rootfs/python/ /
COPY --from=build /rootfs/libraries/ /
COPY --from=build /rootfs/selvedge/ /
COPY requirements/sbom.cdx.json /usr/share/selvedge/
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Selvedge" \
      org.opencontainers.image.description="A Kubernetes operator for what lives inside Postgres and MongoDB servers." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/selvedge/bin:/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/opt/selvedge/bin/selvedge"]
CMD ["run"]
