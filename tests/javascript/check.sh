#!/bin/sh
# Check types and lint of the report's scripts. Ends with 0 and one line of explanation where node, npm or the network is missing.
set -eu
cd "$(dirname "$0")"

skip() {
    echo "The report's scripts were not checked: $1."
    exit 0
}

command -v node >/dev/null && command -v npm >/dev/null || skip "node and npm are not installed"
node -e 'const [major, minor] = process.versions.node.split(".").map(Number); process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)' ||
    skip "node $(node --version) is too old, 20.19 is needed"

stamp=node_modules/.installed
if [ ! -e "$stamp" ] || [ package-lock.json -nt "$stamp" ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! npm ci --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=20000 >"$log" 2>&1; then
        code=$(sed -n 's/^npm error code //p' "$log" | head -n 1)
        case $code in
        EUSAGE | EINTEGRITY | ERESOLVE | EJSONPARSE) # a fault of package.json or of package-lock.json
            cat "$log" >&2
            exit 1
            ;;
        esac
        skip "npm could not install typescript and eslint (${code:-unknown error}); is there a network?"
    fi
    touch "$stamp"
fi

cd ../..
failed=0
for page in report diff clusters; do
    tests/javascript/node_modules/.bin/tsc --project "tests/javascript/tsconfig.$page.json" || failed=1
done
node tests/javascript/lint.js || failed=1
exit "$failed"
