#!/usr/bin/env bash
# A round trip with the aws CLI; $AWS is its command.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aws() { $AWS "$@"; }
key=$(aws kms create-key --description cli --tags TagKey=a,TagValue=b --query KeyMetadata.KeyId --output text)
alias=alias/cli-$RANDOM$RANDOM
aws kms create-alias --alias-name "$alias" --target-key-id "$key"
printf 'attack at dawn' > "$work/plain"
aws kms encrypt --key-id "$alias" --plaintext "fileb://$work/plain" --encryption-context fs=v,file=f \
  --query CiphertextBlob --output text | base64 -d > "$work/blob"
aws kms decrypt --ciphertext-blob "fileb://$work/blob" --encryption-context file=f,fs=v \
  --query Plaintext --output text | base64 -d | cmp - "$work/plain"
if aws kms decrypt --ciphertext-blob "fileb://$work/blob" --encryption-context fs=w 2> "$work/error"; then exit 1; fi
grep -q InvalidCiphertextException "$work/error"
aws kms generate-data-key --key-id "$key" --key-spec AES_256 --query Plaintext --output text | base64 -d | wc -c | grep -qx 32
aws kms schedule-key-deletion --key-id "$key" --pending-window-in-days 7 --query DeletionDate --output text | grep -q "^[0-9]"
aws kms cancel-key-deletion --key-id "$key" > /dev/null
aws kms describe-key --key-id "$key" --query KeyMetadata.KeyState --output text | grep -qx Disabled
aws kms list-resource-tags --key-id "$key" --query 'Tags[0].TagValue' --output text | grep -qx b
aws sts get-caller-identity --query Arn --output text | grep -q :user/administrator
