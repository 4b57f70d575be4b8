#!/usr/bin/env bash
# Builds every fuzz target with libFuzzer and runs each for the given number of seconds.
# Works on stable Rust: the sanitizer coverage flags are passed by hand, no address sanitizer is
# needed because the core forbids unsafe code.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-20}"
targets=(wire_packet wire_tunnel wire_ipc assembler connection_ops node_model network_model local_socket)

export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host="$(rustc -vV | sed -n 's/^host: //p')"
cargo build --release --quiet --target "$host"

for target in "${targets[@]}"; do
    corpus="$(mktemp -d)"
    mkdir -p "corpus/$target"
    echo "fuzz $target for ${seconds}s"
    status=0
    "${CARGO_TARGET_DIR:-target}/$host/release/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 "$corpus" "corpus/$target" \
        > "$corpus.log" 2>&1 || status=$?
    grep -E 'number_of_executed_units|ERROR|panicked|SUMMARY|Test unit' "$corpus.log" || true
    if [ "$status" -ne 0 ]; then
        echo "a finding in $target; the end of its output:" >&2
        tail -n 30 "$corpus.log" >&2
        exit 1
    fi
    if [ "${MERGE:-0}" = 1 ]; then
        "${CARGO_TARGET_DIR:-target}/$host/release/$target" -merge=1 -verbosity=0 "corpus/$target" "$corpus" > /dev/null 2>&1
    fi
    rm -rf "$corpus" "$corpus.log"
done
