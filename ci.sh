#!/usr/bin/env bash
# Every CI step, runnable by hand: ./ci.sh [lint|fuzz|demo|test|soak|audit|all]
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n==> %s\n' "$*"; "$@"; }

system_packages() {
    # What the tests drive from outside: a real HTTP client, and network namespaces.
    command -v curl > /dev/null && command -v ip > /dev/null && return
    apt-get update -qq
    apt-get install -qq --yes curl iproute2
}

case "${1:-all}" in
    lint) step make lint ;;
    audit) step make audit ;;
    fuzz) step make fuzz FUZZ_SECONDS="${FUZZ_SECONDS:-10}" ;;
    demo) step make demo ;;
    test) step system_packages; step make test ;;
    soak) step make soak SOAK_SECONDS="${SOAK_SECONDS:-60}" ;;
    all)
        step system_packages
        step make lint
        step make fuzz FUZZ_SECONDS="${FUZZ_SECONDS:-10}"
        step make demo
        step make soak SOAK_SECONDS="${SOAK_SECONDS:-60}"
        step make test
        ;;
    *) echo "usage: $0 [lint|fuzz|demo|test|soak|audit|all]" >&2; exit 2 ;;
esac
