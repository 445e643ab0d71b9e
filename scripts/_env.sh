# Sourced by the scripts beside it: finds a Python, makes the environment once, keeps it current.
# Bash 3.2 is enough (macOS).

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "xfer needs Python 3.11 or newer: install one, or name it in PYTHON." >&2
    return 1
}

# make_env FOLDER EXTRAS: an environment in FOLDER with this checkout and EXTRAS installed, as constraints.txt pins it.
make_env() {
    fill_env "$1" "xfer[$2]" "$2 $here" "$(cat "$here/pyproject.toml" "$here/constraints.txt" | cksum)" \
        --config-settings editable_mode=compat --editable "$here[$2]" --constraint "$here/constraints.txt"
}

# make_tools FOLDER FILE: an environment in FOLDER with the programs that the requirements FILE names, and not xfer.
make_tools() {
    fill_env "$1" "the programs of $(basename "$2")" "$(basename "$2")" "$(cksum <"$2")" --requirement "$2"
}

# make_go_tools FOLDER FILE: the programs that the go.mod FILE requires, in FOLDER/bin; without go it says so.
make_go_tools() {
    local folder=$1 file=$2 want work
    want="$(cksum <"$file")"
    if [ "$(cat "$folder/.built" 2>/dev/null)" = "$want" ]; then
        return 0
    fi
    if ! command -v go >/dev/null; then
        echo "there is no go: what $(basename "$file") names is left out" >&2
        return 0
    fi
    echo "building what $(basename "$file") names into $folder (once)" >&2
    work=$(mktemp -d) || return 1
    mkdir -p "$folder/bin" && folder=$(cd "$folder" && pwd) && cp "$file" "$work/go.mod" &&
        (cd "$work" && go build -mod=mod -o "$folder/bin/" $(awk '$1 == "require" { print $2 }' go.mod)) &&
        echo "$want" >"$folder/.built"
    set -- $?
    rm -rf "$work"
    return "$1"
}

# fill_env FOLDER NAME STAMP SUM PIP-ARGUMENTS: what pip installs, again when STAMP, SUM or Python are others.
fill_env() {
    local folder=$1 name=$2 stamp=$3 sum=$4 python want
    shift 4
    python=$(find_python) || return 1
    want="$stamp $("$python" -V 2>&1) $sum"
    if [ "$(cat "$folder/.installed" 2>/dev/null)" = "$want" ]; then
        return 0
    fi
    # One of another Python, or a half-made one, is made anew; another set of packages is installed over it.
    if [ "$("$folder/bin/python" -V 2>&1)" != "$("$python" -V 2>&1)" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$folder"
        if ! "$python" -m venv "$folder" >/dev/null 2>&1; then
            rm -rf "$folder"
            if ! "$python" -m virtualenv --quiet "$folder" 2>/dev/null; then
                echo "$python cannot make environments: install its venv module (Debian: apt install python3-venv) or virtualenv." >&2
                return 1
            fi
        fi
    fi
    echo "installing $name into $folder (once)" >&2
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install --quiet "$@" || return 1
    echo "$want" >"$folder/.installed"
}

# One maker at a time where flock(1) is there: two runs in one checkout share the folder.
make_env_alone() {
    alone "$here/pyproject.toml" make_env "$@"
}

# alone FILE COMMAND: one at a time holds FILE.
alone() {
    local file=$1
    shift
    if command -v flock >/dev/null; then
        (
            flock 9
            "$@"
        ) 9<"$file"
    else
        "$@"
    fi
}
