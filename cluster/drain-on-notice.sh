#!/usr/bin/env bash
# Is this spot machine about to be taken away? Then Ray drains its node, and Ray Train checkpoints what runs on it.
#
#   drain-on-notice aws|gcp
#
# Asks the cloud's metadata server every few seconds, for as long as the machine lives; ends after the one drain.
# METADATA_URL and POLL_S are for the tests.
set -euo pipefail

cloud=${1:?usage: drain-on-notice aws|gcp}
poll_s=${POLL_S:-3}

case $cloud in
aws)
  url=${METADATA_URL:-http://169.254.169.254}
  notice_s=120
  notice() {  # 404 until there is one
    local token
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$url/latest/api/token") &&
      curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$url/latest/meta-data/spot/instance-action"
  }
  ;;
gcp)
  url=${METADATA_URL:-http://metadata.google.internal}
  notice_s=30
  notice() {
    [[ $(curl -sf -m 2 -H 'Metadata-Flavor: Google' "$url/computeMetadata/v1/instance/preempted") == TRUE ]]
  }
  ;;
*)
  echo "drain-on-notice: $cloud: unknown; known: aws, gcp" >&2
  exit 2
  ;;
esac

until notice; do sleep "$poll_s"; done
echo "$(date -Is) notice: this machine ends within $notice_s s"
# The address is this machine's own: `auto` shows Ray's token to no other.
exec ray drain-node --address auto --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message "the $cloud spot machine is taken away" --deadline-remaining-seconds "$notice_s"
