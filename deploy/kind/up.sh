#!/usr/bin/env bash
# Selvedge in a kind cluster: the image, two database servers, the chart, and Fashion Wallet until all of it is Ready.
#
#   deploy/kind/up.sh             # make kind-up
#   deploy/kind/up.sh --dry-run   # print what it would run, and run nothing
#
# Needs Docker, kind, kubectl, helm and openssl. A second call goes on with the cluster that is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

KIND_VERSION=v0.33.0
CLUSTER=selvedge
IMAGE="selvedge:$(sed -n 's/^appVersion: //p' charts/selvedge/Chart.yaml)"
STATE=.sandbox/kind
dry=
[ "${1:-}" = --dry-run ] && dry=1

run() {
  if [ -n "$dry" ]; then printf '+ %s\n' "$(printf '%q ' "$@")"; else "$@"; fi
}

say() { printf '\n== %s\n' "$*"; }

# secret NAMESPACE NAME ARGUMENTS…: make it, or bring it up to date
secret() {
  local namespace=$1 name=$2
  shift 2
  if [ -n "$dry" ]; then
    run kubectl -n "$namespace" create secret generic "$name" "$@"
  else
    kubectl -n "$namespace" create secret generic "$name" "$@" --dry-run=client -o yaml | kubectl apply -f -
  fi
}

there() { kind get clusters 2> /dev/null | grep -qx "$CLUSTER"; }

# quietly COMMAND…: what openssl says while it works is shown only where it fails
quietly() {
  local said
  said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2; return 1; }
}

# valid NAME: whether that certificate is there, and will be tomorrow
valid() { [ -s "$STATE/$1.crt" ] && quietly openssl x509 -noout -checkend 86400 -in "$STATE/$1.crt"; }

# certificate NAME: a key and a certificate for the Service of that name
certificate() {
  quietly openssl req -newkey rsa:2048 -nodes -keyout "$STATE/$1.key" -subj "/CN=$1.databases.svc" -out "$STATE/$1.csr"
  quietly openssl x509 -req -in "$STATE/$1.csr" -CA "$STATE/ca.crt" -CAkey "$STATE/ca.key" -CAcreateserial -days 365 \
    -extfile <(printf 'subjectAltName=DNS:%s.databases.svc' "$1") -out "$STATE/$1.crt"
}

if [ -z "$dry" ]; then
  for program in docker kind kubectl helm openssl; do
    command -v "$program" > /dev/null || { echo "error: $program is missing: install it" >&2; exit 1; }
  done
  docker version > /dev/null 2>&1 || { echo "error: Docker does not answer: start it" >&2; exit 1; }
  case "$(kind version)" in
    *"$KIND_VERSION"*) ;;
    *) echo "error: kind $KIND_VERSION is needed: go install sigs.k8s.io/kind@$KIND_VERSION" >&2; exit 1 ;;
  esac
fi

say "passwords and certificates, in $STATE"
(
  umask 077
  mkdir -p "$STATE"
  for name in postgres mongodb; do
    [ -s "$STATE/$name.password" ] || openssl rand -hex 16 | tr -d '\n' > "$STATE/$name.password"
  done
  [ -s "$STATE/keyfile" ] || openssl rand -base64 512 > "$STATE/keyfile"
  if ! valid ca || ! valid postgres || ! valid mongodb; then
    # the servers that run have the old ones, and lose what they hold when they are started anew
    if there; then
      echo "error: certificates in $STATE are missing or expire within a day: make kind-down, then make kind-up" >&2
      exit 1
    fi
    quietly openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=Selvedge in kind" \
      -keyout "$STATE/ca.key" -out "$STATE/ca.crt"
    certificate postgres
    certificate mongodb
  fi
  cat "$STATE/mongodb.crt" "$STATE/mongodb.key" > "$STATE/server.pem"
)

say "the image and the cluster"
run make --no-print-directory image
if [ -n "$dry" ] || ! there; then
  run kind create cluster --config deploy/kind/cluster.yaml --wait 2m
fi
run kind load docker-image "$IMAGE" --name "$CLUSTER"
run kubectl config use-context "kind-$CLUSTER"

say "Postgres and MongoDB"
run kubectl apply -f deploy/kind/databases.yaml
secret databases passwords --from-file=postgres="$STATE/postgres.password" --from-file=mongodb="$STATE/mongodb.password"
secret databases postgres-pki --from-file=tls.crt="$STATE/postgres.crt" --from-file=tls.key="$STATE/postgres.key"
secret databases mongodb-pki --from-file=server.pem="$STATE/server.pem" --from-file=ca.crt="$STATE/ca.crt" \
  --from-file=keyfile="$STATE/keyfile"
run kubectl -n databases rollout status deployment/postgres deployment/mongodb --timeout=5m
# in single quotes: the container's own shell puts its password in
# shellcheck disable=SC2016
run kubectl -n databases exec deployment/mongodb -- bash -ec 'mongosh --quiet --tls --tlsCAFile /tmp/ca.crt \
  --host mongodb.databases.svc -u root -p "$MONGO_INITDB_ROOT_PASSWORD" --authenticationDatabase admin --eval "
  try { rs.status() } catch (e) { rs.initiate({_id: \"rs0\", members: [{_id: 0, host: \"mongodb.databases.svc:27017\"}]}) }"'

say "the operator"
run helm upgrade --install selvedge charts/selvedge --namespace selvedge --create-namespace --wait --timeout 3m

say "Fashion Wallet"
run kubectl apply -f examples/fashion-wallet/00-namespace.yaml
secret shop pg-admin --from-literal=username=postgres --from-file=password="$STATE/postgres.password"
secret shop mongo-admin --from-literal=username=root --from-file=password="$STATE/mongodb.password"
secret shop pg-ca --from-file=ca.crt="$STATE/ca.crt"
secret shop mongo-ca --from-file=ca.crt="$STATE/ca.crt"
run kubectl -n shop label --overwrite secret pg-admin mongo-admin pg-ca mongo-ca selvedge.dev/watch=true
run kubectl apply -k migrations/postgres
run kubectl apply -k migrations/mongodb
run kubectl apply -f deploy/kind/servers.yaml
for manifest in examples/fashion-wallet/[2-9]*.yaml; do run kubectl apply -f "$manifest"; done
run kubectl -n shop wait --for=condition=Ready --timeout=3m dbsrv,dbs,mig,dbu --all

say "everything is Ready: kubectl get dbsrv,dbs,mig,dbu -n shop; make kind-down removes the cluster"
