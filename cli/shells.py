"""What has bash, zsh and fish ask `xfer` for what could come next. Each is printed as it stands."""

from __future__ import annotations

_BASH = r"""# bash completion of xfer; switch it on with: eval "$(xfer completion bash)"
_xfer() {
    local kind= line cur=${COMP_WORDS[COMP_CWORD]}
    [ "$cur" != "=" ] || cur=
    COMPREPLY=()
    while IFS= read -r line; do
        if [ -z "$kind" ]; then kind=$line; else COMPREPLY+=("$line"); fi
    done < <(_XFER_COMPLETE=bash "${1/#\~/$HOME}" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case $kind in  # bash 3 has no compopt
    files)
        compopt -o default 2>/dev/null ||
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur")
        ;;
    folders)
        compopt -o dirnames 2>/dev/null ||
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$cur")
        ;;
    esac
}
complete -F _xfer xfer
"""

_ZSH = r"""#compdef xfer
# zsh completion of xfer; switch it on, after compinit, with: eval "$(xfer completion zsh)"
_xfer() {
    local -a said found
    local line
    said=("${(@f)$(_XFER_COMPLETE=zsh "${(Q)words[1]/#\~/$HOME}" "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    case $said[1] in
    files) _files ;;
    folders) _files -/ ;;
    words)
        for line in "${(@)said[2,-1]}"; do
            found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        done
        _describe xfer found
        ;;
    esac
}
if [ "${funcstack[1]}" = _xfer ]; then _xfer "$@"; else compdef _xfer xfer; fi
"""

_FISH = r"""# fish completion of xfer; switch it on with: xfer completion fish > ~/.config/fish/completions/xfer.fish
function __xfer_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l command $words[1]
    set -e words[1]
    set -l said (_XFER_COMPLETE=fish $command $words "$current" 2>/dev/null)
    set -l kind "$said[1]"
    set -e said[1]
    switch $kind
        case files
            __fish_complete_path "$current"
        case folders
            __fish_complete_directories "$current"
        case words
            printf '%s\n' $said
    end
end
complete -c xfer -f -a '(__xfer_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
