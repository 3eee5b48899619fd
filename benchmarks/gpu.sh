#!/bin/sh
# The figures that docs/ lacks for want of a GPU, what settles most first:
#   sh benchmarks/gpu.sh DATA RESNET50.safetensors OUT [PART ...]
# DATA: a folder with cifar10/ and imagenet-sample/ as ImageFolder trees, and Fashion-MNIST. RESNET50: torchvision's
# weights. OUT: what is made, but for the rows, which go to docs/results/. PART: of tests, synthesis, imagenet,
# zero_shot, rehearsal, paper, compiled_large; all of them when left out. tests, synthesis and compiled_large need
# neither DATA nor RESNET50. A part that fails does not keep the others from being run. Called again, each goes on where
# it was cut off. PYTHON=python3 where there is no .venv; Flower is not needed. Has been run in miniature on the tests'
# second device, and not yet on a card.
set -u
if [ $# -lt 3 ]; then
  sed -n '3p' "$0" | cut -c5- >&2
  exit 2
fi
data=$1 resnet50=$2 out=$3
shift 3
python() { "${PYTHON:-.venv/bin/python}" "$@"; }
speed() { python -m benchmarks.synthesis --device cuda --missing "$@"; }

tests() { # those that take every device that is there
  python -m pytest tests/test_kkt_gradient.py tests/test_distance_gradient.py tests/test_layers.py tests/test_synthesis.py \
    tests/test_selection.py tests/test_views.py tests/test_consolidation.py
}

synthesis() { # seconds and memory beside the plain loop, the share of the card's matrix throughput, tf32's error; in
  # parts of 50 too: a card takes a thousand images at once, in which memory grows with their number
  speed && speed --compiled --cases small && speed --compiled --precision tf32 --cases small &&
    speed --micro-batch 50 --cases small
}

imagenet() { # ten classes at 224 px, between two of them, edits: 1,000 iterations of each
  python -m benchmarks.imagenet --device cuda --weights "$resnet50" --images "$data/imagenet-sample" --out "$out/imagenet"
}

zero_shot() { # students of the field's width, ResNet-18 among them, from ten and fifty per class
  python -m benchmarks.zero_shot --federation cifar10-central --data-root "$data/cifar10" --crops "$data/imagenet-sample" \
    --cache "$out/zero-shot" --out docs/results/zero_shot-gpu.json --iterations 150 --rival-iterations 100 \
    --selection-images 5000 --labels view --views 96000 --per-class 10,50 --student-steps 16000 --bfloat16 --compiled \
    --device cuda --students convnet:128,resnet18:64:batch --methods "DSV, from dead leaves;random real"
}

rehearsal() { # new classes beside old ones, at the field's width
  python -m benchmarks.rehearsal --data cifar10 --data-root "$data/cifar10" --teacher convnet:128 --device cuda \
    --students convnet:128,resnet18:64 --cache "$out/rehearsal"
}

paper() { # three teachers at the paper's length; variations and recipes, further rows of the script, are left out
  python -m benchmarks.paper --data-root "$data/cifar10" --other "$data/imagenet-sample" --fashion-root "$data" \
    --cache "$out/paper" --out docs/results/paper-gpu.json --device cuda --compiled \
    --rows "teacher*;table*;ours*;figure*"
}

compiled_large() { # ResNet-50, whose compilation took 22 minutes of one busy core
  speed --compiled --cases large
}

need() { # a file or folder of one of the parts that are wanted
  if [ ! -e "$1" ]; then
    echo "$1 does not exist, which the part $2 needs" >&2
    exit 2
  fi
}

parts=${*:-tests synthesis imagenet zero_shot rehearsal paper compiled_large}
for part in $parts; do
  case $part in
    tests | synthesis | compiled_large) ;;
    imagenet) need "$resnet50" imagenet && need "$data/imagenet-sample" imagenet ;;
    rehearsal) need "$data/cifar10" rehearsal ;;
    zero_shot | paper) need "$data/cifar10" "$part" && need "$data/imagenet-sample" "$part" ;;
    *) echo "unknown part $part; choose of: tests, synthesis, imagenet, zero_shot, rehearsal, paper, compiled_large" >&2 && exit 2 ;;
  esac
done
failed=
for part in $parts; do
  "$part" || failed="$failed $part"
done
[ -z "$failed" ] || { echo "failed:$failed" >&2 && exit 1; }
