#!/usr/bin/env bash
# Every CI step, runnable by hand: ./ci.sh [lint|fuzz|demo|test|nat|lab|soak|audit|all]
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n==> %s\n' "$*"; "$@"; }

system_packages() {
    # What the tests drive from outside: a real HTTP client and resolver, network namespaces, NATs,
    # a home router's port mapping, and shells.
    for program in curl dig ip nft conntrack miniupnpd ssh zsh fish; do
        command -v "$program" > /dev/null && continue
        apt-get update -qq
        apt-get install -qq --yes curl bind9-dnsutils iproute2 nftables conntrack \
            miniupnpd-nftables openssh-client systemd zsh fish
        return
    done
}

browser() {
    # For one recipe, which is skipped without it. Only the download takes long.
    command -v chromium > /dev/null && return
    timeout 90 apt-get install -qq --yes --no-install-recommends --download-only chromium || return 0
    apt-get install -qq --yes --no-install-recommends chromium
}

case "${1:-all}" in
    lint) step make lint ;;
    audit) step make audit ;;
    fuzz) step make fuzz FUZZ_SECONDS="${FUZZ_SECONDS:-10}" ;;
    demo) step make demo ;;
    test) step system_packages; step browser; step make test ;;
    nat) step make test-nat SEEDS=2500 ;;
    lab) step system_packages; step make lab QUICK=1 ;;
    soak) step make soak SOAK_SECONDS="${SOAK_SECONDS:-60}" ;;
    all)
        step system_packages
        step make lint
        step make fuzz FUZZ_SECONDS="${FUZZ_SECONDS:-10}"
        step make demo
        step make soak SOAK_SECONDS="${SOAK_SECONDS:-60}"
        step make test-nat SEEDS=2500
        step make lab QUICK=1
        step browser
        step make test
        ;;
    *) echo "usage: $0 [lint|fuzz|demo|test|nat|lab|soak|audit|all]" >&2; exit 2 ;;
esac
