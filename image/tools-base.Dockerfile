# A base for the Dockerfile's target `tools` that knows the databases' own package repositories: pg_dump for every
# Postgres, and MongoDB's tools. docs/guide/image.md has the two commands.
ARG BASE=docker.io/library/debian:bookworm-slim
FROM ${BASE}
ARG SUITE=bookworm
ARG MONGODB=8.0
ENV DEBIAN_FRONTEND=noninteractive
# apt reads keys as a user of its own
ADD https://www.postgresql.org/media/keys/ACCC4CF8.asc /etc/apt/keyrings/postgresql.asc
ADD https://pgp.mongodb.com/server-${MONGODB}.asc /etc/apt/keyrings/mongodb.asc
RUN chmod 644 /etc/apt/keyrings/*.asc \
    && apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && cd /etc/apt/sources.list.d \
    && echo "deb [signed-by=/etc/apt/keyrings/postgresql.asc] https://apt.postgresql.org/pub/repos/apt ${SUITE}-pgdg main" \
        > postgresql.list \
    && echo "deb [signed-by=/etc/apt/keyrings/mongodb.asc] https://repo.mongodb.org/apt/debian ${SUITE}/mongodb-org/${MONGODB} main" \
        > mongodb.list
