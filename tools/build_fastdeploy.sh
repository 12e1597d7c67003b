#!/usr/bin/env bash
# Builds the runtime of FastDeploy 1.x from its sources, which no package index has: the C++ SDK and the Python
# module, with ONNX Runtime and OpenVINO below it, for CPUs.
#   bash tools/build_fastdeploy.sh --source FastDeploy --output FOLDER [options]
#     --source FOLDER           sources of FastDeploy 1.x (https://github.com/PaddlePaddle/FastDeploy, release/1.1.0)
#     --output FOLDER           where it is installed: FOLDER for FASTDEPLOY_INSTALL_DIR, FOLDER/python for PYTHONPATH
#     --engines LIST            onnx_runtime,openvino (the default), or one of them
#     --onnxruntime_dir FOLDER  an archive of ONNX Runtime's releases, unpacked, or libonnxruntime-dev's /usr; the library
#                               is that of the Python package where FOLDER has none. The package has no headers.
#     --openvino_dir FOLDER     an archive of OpenVINO's releases, unpacked; the Python package by default
#     --python PROGRAM          the Python that the module is for; .venv's by default
#     --overwrite               replace FOLDER
# FOLDER is whole or not there. Prints the two settings as its last lines; exits with 2 where something is missing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source_dir="" output="" engines="onnx_runtime,openvino" ort_dir="" openvino_dir="" overwrite=""
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3

fail() {
  echo "error: $*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case "$1" in
    --overwrite) overwrite=1 && shift && continue ;;
    --source | --output | --engines | --onnxruntime_dir | --openvino_dir | --python) ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "unknown option $1; bash tools/build_fastdeploy.sh --help lists them" ;;
  esac
  [ $# -gt 1 ] || fail "$1 needs a value"
  case "$1" in
    --source) source_dir="$2" ;;
    --output) output="$2" ;;
    --engines) engines="$2" ;;
    --onnxruntime_dir) ort_dir="$2" ;;
    --openvino_dir) openvino_dir="$2" ;;
    --python) python="$2" ;;
  esac
  shift 2
done

check_source() {
  [ -n "$source_dir" ] && [ -n "$output" ] || fail "--source and --output are needed; --help explains them"
  local clone="git clone -b release/1.1.0 https://github.com/PaddlePaddle/FastDeploy" version file
  [ -f "$source_dir/VERSION_NUMBER" ] || fail "--source $source_dir has no VERSION_NUMBER: expected FastDeploy's sources ($clone)"
  version="$(tr -d '[:space:]' <"$source_dir/VERSION_NUMBER")"
  case "$version" in
    1.*) ;;
    *) fail "--source $source_dir is FastDeploy $version: expected 1.x, as 2 is a server without this runtime ($clone)" ;;
  esac
  for file in fastdeploy/core/config.h.in fastdeploy/runtime/runtime.cc fastdeploy/pybind/main.cc.in \
    python/fastdeploy/runtime.py python/fastdeploy/c_lib_wrap.py.in; do
    [ -f "$source_dir/$file" ] || fail "--source $source_dir (FastDeploy $version) has no $file: the sources are not whole ($clone)"
  done
  source_dir="$(cd "$source_dir" && pwd)"
}

check_output() {
  if [ -e "$output" ]; then
    [ -n "$overwrite" ] || fail "--output $output exists: give --overwrite to replace it, or another folder"
    [ -f "$output/FastDeploy.cmake" ] || fail "--output $output is not a folder that this script installed (it has no FastDeploy.cmake), and is not replaced: give another one"
  fi
  mkdir -p "$(dirname "$output")"
  output="$(cd "$(dirname "$output")" && pwd)/$(basename "$output")"
}

check_tools() {
  local tool
  for tool in cmake g++ make; do
    command -v "$tool" >/dev/null || fail "$tool is not installed: bash tools/setup_cpp.sh (apt-get install cmake g++ make)"
  done
  "$python" -c 'import pybind11' 2>/dev/null || fail "--python $python has no package pybind11: $python -m pip install pybind11"
  python_include="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  [ -f "$python_include/Python.h" ] || fail "$python_include has no Python.h: install Python's headers (apt-get install python3-dev)"
  pybind11_include="$("$python" -c 'import pybind11; print(pybind11.get_include())')"
  python_suffix="$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
}

package_dir() { # of a Python package, which is not imported; empty where it is not installed
  "$python" -c 'import importlib.util as u, sys; s = u.find_spec(sys.argv[1]); print(s.submodule_search_locations[0] if s else "")' "$1"
}

first() { # the first file of a name below folders that may be missing
  local name="$1"
  shift
  { find -L "$@" -name "$name" -type f 2>/dev/null || true; } | sort | head -n 1
}

find_onnxruntime() {
  local releases="https://github.com/microsoft/onnxruntime/releases"
  [ -n "$ort_dir" ] || fail "ONNX Runtime's C++ headers are in no Python package: give --onnxruntime_dir, an archive of $releases unpacked, or --engines openvino"
  ort_header="$(first onnxruntime_cxx_api.h "$ort_dir/include")"
  [ -n "$ort_header" ] || fail "--onnxruntime_dir $ort_dir has no include/onnxruntime_cxx_api.h: expected an archive of $releases, unpacked"
  ort_library="$(first 'libonnxruntime.so*' "$ort_dir/lib" "$ort_dir/lib64")"
  if [ -z "$ort_library" ]; then
    local package
    package="$(package_dir onnxruntime)"
    [ -z "$package" ] || ort_library="$(first 'libonnxruntime.so*' "$package/capi")"
  fi
  [ -n "$ort_library" ] || fail "neither --onnxruntime_dir $ort_dir nor $python has libonnxruntime.so: $python -m pip install onnxruntime"
}

find_openvino() {
  local given="$openvino_dir" header
  [ -n "$openvino_dir" ] || openvino_dir="$(package_dir openvino)"
  [ -n "$openvino_dir" ] || fail "$python has no package openvino: $python -m pip install openvino, or give --openvino_dir or --engines onnx_runtime"
  header="$(first openvino.hpp "$openvino_dir/include" "$openvino_dir/runtime/include")"
  openvino_library="$(first 'libopenvino.so.*' "$openvino_dir/libs" "$openvino_dir/runtime/lib")"
  [ -n "$header" ] && [ -n "$openvino_library" ] ||
    fail "${given:+--openvino_dir }$openvino_dir has no openvino/openvino.hpp or libopenvino.so: expected the Python package openvino or an archive of OpenVINO's releases, unpacked"
  openvino_include="$(dirname "$(dirname "$header")")"
  if grep -q '"AFFINITY"' "$source_dir"/fastdeploy/runtime/backends/openvino/ov_backend.cc &&
    ! grep -q -a -w AFFINITY "$(dirname "$openvino_library")/libopenvino_intel_cpu_plugin.so"; then
    fail "this FastDeploy sets OpenVINO's property AFFINITY, which $openvino_library no longer has: give an older one (pip install openvino==2024.6.0, or --openvino_dir)"
  fi
  # The name of a constructor tells which std::string the library was compiled with.
  string_abi=1
  ! grep -q -a '_ZN2ov4CoreC1ERKSs' "$openvino_library" || string_abi=0
}

install_openvino() { # into the folder $1: what runs ONNX graphs on CPUs
  local from
  from="$(dirname "$openvino_library")"
  mkdir -p "$1"
  find -L "$from" $(ls -d "$openvino_dir/runtime/3rdparty/tbb/lib" 2>/dev/null) -maxdepth 1 -type f \( -name 'libopenvino.so.*' \
    -o -name 'libopenvino_intel_cpu_plugin.so' -o -name 'libopenvino_onnx_frontend.so.*' -o -name 'libtbb.so.*' \
    -o -name 'libtbbmalloc.so.*' -o -name 'libtbbbind*.so.*' -o -name 'libhwloc.so.*' \) -exec cp -L {} "$1" \;
  # FastDeploy has no option for these. Processors with bfloat16 units would compute in bfloat16; kernels are compiled
  # for each length of the cache, and 5000 are kept by default.
  cat >"$1/plugins.xml" <<'XML'
<ie>
  <plugins>
    <plugin name="CPU" location="libopenvino_intel_cpu_plugin.so">
      <properties>
        <property key="INFERENCE_PRECISION_HINT" value="f32"/>
        <property key="CPU_RUNTIME_CACHE_CAPACITY" value="64"/>
      </properties>
    </plugin>
  </plugins>
</ie>
XML
}

install_sdk() { # into the folder $1
  local file
  mkdir -p "$1/lib" "$1/include" "$1/python/fastdeploy/libs"
  cp "$work/build/libfastdeploy.so" "$1/lib"
  (cd "$source_dir" && find fastdeploy -name '*.h' -exec cp --parents {} "$1/include" \;)
  cp "$work/build/generated/fastdeploy/core/config.h" "$1/include/fastdeploy/core"
  sed "s/@STRING_ABI@/$string_abi/" "$root/tools/fastdeploy/FastDeploy.cmake" >"$1/FastDeploy.cmake"
  cp "$work/build/fastdeploy_main$python_suffix" "$1/python/fastdeploy/libs"
  touch "$1/python/fastdeploy/libs/__init__.py"
  cp "$work/build/generated/c_lib_wrap.py" "$source_dir/python/fastdeploy/runtime.py" "$1/python/fastdeploy"
  for file in rknpu2 rknpu2.py; do # runtime.py imports it
    [ ! -e "$source_dir/python/fastdeploy/$file" ] || cp -r "$source_dir/python/fastdeploy/$file" "$1/python/fastdeploy"
  done
  cp "$root/tools/fastdeploy/init.py" "$1/python/fastdeploy/__init__.py"
}

check_source
check_output
check_tools
string_abi=1 ort_header="" ort_library="" openvino_include="" openvino_library=""
for engine in ${engines//,/ }; do
  case "$engine" in
    onnx_runtime) find_onnxruntime ;;
    openvino) find_openvino ;;
    *) fail "--engines $engines: expected onnx_runtime, openvino or both, separated by a comma" ;;
  esac
done

work="$(mktemp -d "$output.XXXXXX")"
trap 'rm -rf "$work"' EXIT
installed="$work/installed"
mkdir -p "$installed/third_libs/onnxruntime"
if [ -n "$ort_library" ]; then # under the name that the linker wrote down
  soname="$(objdump -p "$ort_library" 2>/dev/null | sed -n 's/ *SONAME *//p')" || soname=""
  [ -n "$soname" ] || fail "$ort_library is not a shared library: expected ONNX Runtime's for this machine"
  cp -L "$ort_library" "$installed/third_libs/onnxruntime/$soname"
fi
[ -z "$openvino_library" ] || install_openvino "$installed/third_libs/openvino"

echo "[fastdeploy] FastDeploy $(tr -d '[:space:]' <"$source_dir/VERSION_NUMBER") with $engines; the output of cmake follows if it fails"
if ! { cmake -S "$root/tools/fastdeploy" -B "$work/build" -DFASTDEPLOY_SOURCE="$source_dir" \
  -DORT_INCLUDE="${ort_header:+$(dirname "$ort_header")}" -DORT_LIBRARY="$ort_library" \
  -DOPENVINO_INCLUDE="$openvino_include" -DOPENVINO_LIBRARY="$openvino_library" -DSTRING_ABI="$string_abi" \
  -DPYBIND11_INCLUDE="$pybind11_include" -DPYTHON_INCLUDE="$python_include" -DPYTHON_SUFFIX="$python_suffix" &&
  cmake --build "$work/build" --parallel "$(nproc)"; } >"$work/output" 2>&1; then
  cat "$work/output" >&2
  fail "FastDeploy could not be built; what stopped it is above"
fi
install_sdk "$installed"
"$python" - "$installed/python" <<'PY' >"$work/output" 2>&1 || { cat "$work/output" >&2; fail "what was built cannot be imported"; }
import sys
sys.path.insert(0, sys.argv[1])
import fastdeploy
print(fastdeploy.Runtime, fastdeploy.RuntimeOption, fastdeploy.ModelFormat.ONNX)
PY
rm -rf "$output"
mv "$installed" "$output"
echo "export FASTDEPLOY_INSTALL_DIR=$output"
echo "export PYTHONPATH=$output/python\${PYTHONPATH:+:\$PYTHONPATH}"
