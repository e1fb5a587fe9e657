#!/bin/sh
# Stands in for NVIDIA's compiler where only Rust code is checked: it writes what a build script expects to find, empty.
output= directory= source= ptx=
case "$*" in
*--version*)
  printf 'nvcc\n\n\nCuda compilation tools, release 13.0, V13.0.88\n'
  exit 0
  ;;
esac
while [ $# -gt 0 ]; do
  case $1 in
  -o) output=$2 && shift ;;
  --output-directory) directory=$2 && shift ;;
  --ptx) ptx=1 ;;
  *.cu) source=$1 ;;
  esac
  shift
done
if [ -n "$ptx" ]; then
  : >"$directory/$(basename "$source" .cu).ptx"
fi
case $output in
'') ;;
*.a) printf '!<arch>\n' >"$output" ;;
*) : >"$output" ;;
esac
