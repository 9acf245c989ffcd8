# The gateway alone: no demo, no shell, not root. For both architectures, each compiled on the machine that builds:
#
#     docker buildx build --platform linux/amd64,linux/arm64 -t toolgate .
#
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
# Features of Cargo.toml.
ARG FEATURES=kubernetes
WORKDIR /src
# The compiler for the other architecture only where one is built. jemalloc must know the largest page of the machines it will run
# on, which on arm64 is 64 KiB.
RUN set -eu; \
    packages=cmake; \
    case "$TARGETARCH" in \
        amd64) target=x86_64-unknown-linux-gnu compiler=x86_64-linux-gnu-gcc package=x86-64-linux-gnu libc=amd64 page=12 ;; \
        arm64) target=aarch64-unknown-linux-gnu compiler=aarch64-linux-gnu-gcc package=aarch64-linux-gnu libc=arm64 page=16 ;; \
        *) echo "no image for $TARGETARCH"; exit 1 ;; \
    esac; \
    if [ "$BUILDARCH" != "$TARGETARCH" ]; then \
        packages="$packages gcc-$package g++-$package libc6-dev-$libc-cross"; \
        rustup target add "$target"; \
    fi; \
    apt-get update; \
    apt-get install -y --no-install-recommends $packages; \
    rm -rf /var/lib/apt/lists/*; \
    printf '[build]\ntarget = "%s"\n[target.%s]\nlinker = "%s"\n[env]\nJEMALLOC_SYS_WITH_LG_PAGE = "%s"\n' \
        "$target" "$target" "$compiler" "$page" > "$CARGO_HOME/config.toml"
# What the gateway is made of, in a layer of its own, which changes only with these two files: an empty program is built with it.
COPY Cargo.toml Cargo.lock ./
RUN set -eu; \
    mkdir src benches; \
    echo 'fn main() {}' > src/main.rs; \
    touch src/lib.rs; \
    for bench in $(sed -n '/^\[\[bench\]\]/{n;s/^name = "\(.*\)"/\1/p}' Cargo.toml); do touch "benches/$bench.rs"; done; \
    cargo build --release --locked --no-default-features --features "$FEATURES"
# Newer than the empty program, whenever they were written.
COPY src src
RUN set -eu; \
    touch src/main.rs src/lib.rs; \
    cargo build --release --locked --no-default-features --features "$FEATURES"; \
    cp target/*/release/toolgate /toolgate; \
    mkdir /state /log

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Toolgate" \
      org.opencontainers.image.description="An edge proxy for the Model Context Protocol" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /toolgate /toolgate
# The default state_dir is below the working directory, which must be the user's to write. Nothing else is written, so the rest may
# be read-only.
COPY --from=build --chown=65532:65532 /state /var/lib/toolgate
# For the record of calls, if a sink is a file there: mount a volume that outlives the container.
COPY --from=build --chown=65532:65532 /log /var/log/toolgate
WORKDIR /var/lib/toolgate
USER 65532:65532
EXPOSE 8080
# Asks http://127.0.0.1:9900/ready, so the configuration needs `health: { listen: 0.0.0.0:9900 }`. Not for orchestrators, which ask
# themselves.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["/toolgate", "health"]
ENTRYPOINT ["/toolgate"]
CMD ["run", "--config", "/etc/toolgate/toolgate.yaml"]
