#!/usr/bin/env bash
# Drains this node of Ray when the cloud gives notice that it takes the spot machine away. Ray Train then writes a
# checkpoint of the training on this node.
#
#   drain-on-notice aws|gcp
#
# Asks the metadata server of the cloud every few seconds, and ends after the drain. METADATA_URL and POLL_S are for the
# tests.
set -euo pipefail

cloud=${1:?usage: drain-on-notice aws|gcp}
poll_s=${POLL_S:-3}

case $cloud in
aws)
  url=${METADATA_URL:-http://169.254.169.254}
  notice_s=120
  notice() {  # the server answers 404 until there is a notice
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
# `auto` is this machine's own address, so Ray's token is shown to no other machine.
exec ray drain-node --address auto --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message "the $cloud spot machine is taken away" --deadline-remaining-seconds "$notice_s"
