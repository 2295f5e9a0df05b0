#!/usr/bin/env bash
# Runs kdjax on all hosts of a TPU pod slice:
#   TPU=name ZONE=zone experiments/launch/tpu_pod.sh gs-or-nfs-workdir
#
# Each host needs a checkout of kdjax as its working directory. The workdir has to be a directory
# that the first host can write to (NFS, a mounted bucket).
set -eu
workdir=${1:?usage: TPU=name ZONE=zone tpu_pod.sh WORKDIR}
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  pip install -q '.[tpu]' -f https://storage.googleapis.com/jax-releases/libtpu_releases.html
  kdjax train --coordinator=auto --config=configs/cifar100_resnet110.py --workdir=$workdir
"
