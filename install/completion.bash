# Completion of the `hakmem` command, for bash. shellcheck shell=bash

_hakmem()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]-} i
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        local commands="run record trace-info path version help --version --help"
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
        return
    fi
    case $command in
    trace-info)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    run | record) ;;
    *) return ;;
    esac
    # Where the program stands: behind the options.
    i=2
    if [[ $command == record ]]; then
        while ((i < COMP_CWORD)); do
            case ${COMP_WORDS[i]} in
            -o | --calls) i=$((i + 2)) ;;
            --children) i=$((i + 1)) ;;
            *) break ;;
            esac
        done
    fi
    [[ ${COMP_WORDS[i]-} != -- || $i -eq $COMP_CWORD ]] || i=$((i + 1))
    if ((i > COMP_CWORD)); then
        if [[ $before == -o ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi
    elif ((i < COMP_CWORD)); then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ $word == -* && $command == record ]]; then
        mapfile -t COMPREPLY < <(compgen -W "-o --calls --children --" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -c -- "$word")
    fi
}
complete -o filenames -F _hakmem hakmem
