#!/bin/sh
# The pictures of "Labels as latents" in docs/results.md:
#   sh benchmarks/latents.sh TEACHER.safetensors DIR/cifar10 OUT
# TEACHER: the paper's teacher on CIFAR-10, as benchmarks/paper.py leaves it in its cache. OUT: a new folder.
# About half an hour on one busy core.
set -eu
teacher=$1 data=$2 out=$3
dsv() { "${PYTHON:-.venv/bin/python}" -m deploy.cli "$@"; }
# For the eye: from coarse to fine, smooth, and true of shifted and mirrored copies too.
set -- --total-variation-weight 0.1 --augmented-weight 5 --iterations 600
mkdir -p "$out/pictures"
for class in airplane cat frog truck; do
  cp "$(find "$data/test/$class" -name '*-0004.*' -o -name '0004.*' | head -n 1)" "$out/pictures/$class.jpg"
done
dsv interpolate --teacher "$teacher" --classes automobile,ship --coarse-stages 3 "$@" --out "$out/interpolate"
dsv edit --teacher "$teacher" --images "$out/pictures" --target horse "$@" --image-step 0.01 --out "$out/edit"
dsv synthesize --teacher "$teacher" --images-per-class 4 --coarse-stages 3 --start noise --views 0 "$@" --store "$out/store"
dsv export "$out"/store/*.dsv "$out/export"
dsv mix --teacher "$teacher" --release "$out"/store/*.dsv --images "$out/pictures" --class horse --out "$out/mix"
