"""``pyengine completion``: the scripts by which shells ask ``complete`` for what comes next."""

from __future__ import annotations

import sys

from pyengine.cli.client import CommandError
from pyengine.cli.flags import Options, command
from pyengine.cli.session import Session

_SCRIPTS = {
    "bash": r"""
_pyengine() {
    local IFS=$'\n' found
    found=($(pyengine __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
    COMPREPLY=()
    if [[ ${found[0]} == :files ]]; then
        compopt -o default
    else
        COMPREPLY=("${found[@]}")
        [[ ${#found[@]} -eq 1 && ${found[0]} == *: ]] && compopt -o nospace
    fi
}
complete -F _pyengine pyengine
""",
    "zsh": r"""#compdef pyengine
_pyengine() {
    local -a names shown
    local line
    local asked="${(j: :)words[1,CURRENT-1]} $PREFIX"
    for line in "${(@f)$(pyengine __complete zsh "$asked" 2>/dev/null)}"; do
        [[ $line == :files ]] && { _files; return }
        [[ -n $line ]] || continue
        names+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    (( $#names )) && compadd -l -d shown -a names
}
if [[ $funcstack[1] == _pyengine ]]; then
    _pyengine "$@"
else
    compdef _pyengine pyengine
fi
""",
    "fish": r"""
function __pyengine_complete
    set -l found (pyengine __complete fish (commandline -cp) 2>/dev/null)
    if test "$found[1]" = :files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end
complete -c pyengine -f -a '(__pyengine_complete)'
""",
}
_LONG = """The script goes to where the shell reads it, or into the shell at once:
  bash   source <(pyengine completion bash)
  zsh    source <(pyengine completion zsh)
  fish   pyengine completion fish | source"""


@command("SHELL", "Print the script for a shell's completion", at_least=1, at_most=1, long=_LONG)
def completion(_: Session, __: Options, arguments: list[str]) -> None:
    shell = arguments[0]
    if shell not in _SCRIPTS:
        raise CommandError(f'no completion for "{shell}": the shells are {", ".join(_SCRIPTS)}')
    print(_SCRIPTS[shell].strip())


@command(
    "SHELL LINE [BREAKS]",
    "Answer the script of a shell",
    at_least=2,
    at_most=3,
    interspersed=False,
    hidden=True,
)
def ask(_: Session, __: Options, words: list[str]) -> None:
    from pyengine.cli.complete import answer

    sys.stdout.writelines(f"{line}\n" for line in answer(*words))
