# The gateway alone: no demo, no shell, not root.
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep what was downloaded and compiled, so that a change of the sources builds only them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features \
    && cp target/release/toolgate /toolgate \
    && mkdir /state /log

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /toolgate /toolgate
# The default state_dir is below the working directory, which must be the user's to write.
COPY --from=build --chown=65532:65532 /state /var/lib/toolgate
# For the record of calls, if a sink is a file there: mount a volume that outlives the container.
COPY --from=build --chown=65532:65532 /log /var/log/toolgate
WORKDIR /var/lib/toolgate
USER 65532
EXPOSE 8080
ENTRYPOINT ["/toolgate"]
CMD ["run", "--config", "/etc/toolgate/toolgate.yaml"]
