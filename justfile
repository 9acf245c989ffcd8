# The daily life in nine words.

# Format, clippy with warnings as errors, docs.
check:
    cargo fmt --check
    cargo clippy --all-targets --features kubernetes -- -D warnings
    cargo clippy --no-default-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# All tests.
test:
    cargo test --features kubernetes

# The tests of one noun, for example `just suite sessions`.
suite noun:
    cargo test --features kubernetes --test suite {{noun}}

# Micro-benchmarks.
bench *arguments:
    cargo bench {{arguments}}

# The gateway beside a bare Pingora pass-through, for example `just load --quick`.
load *arguments:
    loadtest/compare {{arguments}}

# The gateway with a configuration.
run conf:
    cargo run --release -- run --config {{conf}}

# The fuzz target, for a minute; needs nightly and cargo-fuzz.
fuzz seconds="60":
    cargo +nightly fuzz run peek -- -max_total_time={{seconds}}

# Advisories, licences and sources of all crates; needs cargo-deny.
deny:
    cargo deny check

# What CI runs.
all:
    .ci/run
