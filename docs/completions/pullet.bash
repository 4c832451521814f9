# shellcheck shell=bash
# Completion of pullet for bash. Made from src/args.rs and src/config/settings.rs by a test (tests/it/manual).
# In /usr/share/bash-completion/completions it is called pullet; or: . pullet.bash

_pullet() {
    local current=${COMP_WORDS[COMP_CWORD]} before='' words=''
    COMPREPLY=()
    if [ "$COMP_CWORD" -le 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'setup run register status journal check admission crds rbac doctor uninstall help version --help --version' -- "$current")
        return
    fi
    before=${COMP_WORDS[COMP_CWORD - 1]}
    # A line is cut into words at =, too.
    if [ "$current" = = ]; then
        current=
    elif [ "$before" = = ]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $before in
        --config | --token-file | --ca-file | --client-cert | --client-key | --kubeconfig | --keyring | --status-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            compopt -o filenames
            return
            ;;
        --state-dir | --directory)
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            compopt -o filenames
            return
            ;;
        --target)
            mapfile -t COMPREPLY < <(compgen -W 'kubernetes directory' -- "$current")
            return
            ;;
        --signatures)
            mapfile -t COMPREPLY < <(compgen -W 'require warn off' -- "$current")
            return
            ;;
        --allow-operation)
            mapfile -t COMPREPLY < <(compgen -W 'Backup Migration Restore RunCommand Runbook Upgrade' -- "$current")
            return
            ;;
        --succeed-on)
            mapfile -t COMPREPLY < <(compgen -W 'ready applied' -- "$current")
            return
            ;;
        --profile)
            mapfile -t COMPREPLY < <(compgen -W 'standard metered' -- "$current")
            return
            ;;
        --log-level)
            mapfile -t COMPREPLY < <(compgen -W 'error warn info debug trace' -- "$current")
            return
            ;;
        --log-format)
            mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$current")
            return
            ;;
        --endpoint | --cluster-id | --cluster-resource | --display-name | --proxy | --wait | --context | --allow-kind | --allow-namespace | --allow-chart | --poll-interval | --monthly-budget | --metrics | --ready-timeout | --heartbeat-interval | --journal-size | --root) return ;;
    esac
    case ${COMP_WORDS[1]} in
        setup) words='--dry-run --in-cluster --no-start --root --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        run) words='--config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        register) words='--force --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        status) words='--json --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        journal) words='--json --follow --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        check) words='--json --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        admission) words='--json --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        rbac) words='--config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        doctor) words='--json --reset-clock --reset-ledger --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        uninstall) words='--dry-run --purge-resources --leave-cluster --yes --root --config --state-dir --endpoint --token-file --cluster-id --cluster-resource --display-name --ca-file --client-cert --client-key --mtls --proxy --wait --target --directory --kubeconfig --context --allow-plain-http-loopback --allow-kind --keyring --signatures --allow-namespace --allow-chart --allow-operation --require-encrypted-secrets --succeed-on --profile --poll-interval --monthly-budget --status-file --metrics --ready-timeout --heartbeat-interval --journal-size --log-level --log-format --help' ;;
        help) words='setup run register status journal check admission crds rbac doctor uninstall help version' ;;
        version) words='--json --help' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    case ${COMP_WORDS[1]} in
        check)
            if [[ $current != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
                compopt -o filenames
            fi
            ;;
    esac
}

complete -F _pullet pullet
