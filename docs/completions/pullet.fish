# Completion of pullet for fish. Made from src/args.rs and src/config/settings.rs by a test (tests/it/manual).
# It belongs into /usr/share/fish/vendor_completions.d or ~/.config/fish/completions.

complete -c pullet -f
complete -c pullet -n __fish_use_subcommand -a setup -d 'make an agent of this node: account, configuration, registration, start'
complete -c pullet -n __fish_use_subcommand -a run -d 'run the agent'
complete -c pullet -n __fish_use_subcommand -a register -d 'exchange the one-time token for a credential, and end'
complete -c pullet -n __fish_use_subcommand -a status -d 'show what the running agent knows: connection, jobs, bytes, memory'
complete -c pullet -n __fish_use_subcommand -a journal -d 'show what waits on the disk to be done or posted'
complete -c pullet -n __fish_use_subcommand -a check -d 'say what would become of the job in a file, without doing it'
complete -c pullet -n __fish_use_subcommand -a admission -d 'print what jobs may do as admission policies of the API server'
complete -c pullet -n __fish_use_subcommand -a crds -d 'print the definitions of the custom resources, for kubectl apply -f -'
complete -c pullet -n __fish_use_subcommand -a rbac -d 'print the rights that the agent needs in the cluster, for kubectl apply -f -'
complete -c pullet -n __fish_use_subcommand -a doctor -d 'say what is wrong with this node and how to mend it'
complete -c pullet -n __fish_use_subcommand -a uninstall -d 'take the agent away'
complete -c pullet -n __fish_use_subcommand -a help -d 'show this, or the flags of a command: pullet help run'
complete -c pullet -n __fish_use_subcommand -a version -d 'show the version'
complete -c pullet -n '__fish_seen_subcommand_from help' -a 'setup run register status journal check admission crds rbac doctor uninstall help version'
complete -c pullet -n '__fish_seen_subcommand_from setup' -l dry-run
complete -c pullet -n '__fish_seen_subcommand_from setup' -l in-cluster
complete -c pullet -n '__fish_seen_subcommand_from setup' -l no-start
complete -c pullet -n '__fish_seen_subcommand_from setup' -l root -x
complete -c pullet -n '__fish_seen_subcommand_from register' -l force
complete -c pullet -n '__fish_seen_subcommand_from status' -l json
complete -c pullet -n '__fish_seen_subcommand_from journal' -l json
complete -c pullet -n '__fish_seen_subcommand_from journal' -l follow
complete -c pullet -n '__fish_seen_subcommand_from check' -l json
complete -c pullet -n '__fish_seen_subcommand_from check' -F
complete -c pullet -n '__fish_seen_subcommand_from admission' -l json
complete -c pullet -n '__fish_seen_subcommand_from doctor' -l json
complete -c pullet -n '__fish_seen_subcommand_from doctor' -l reset-clock
complete -c pullet -n '__fish_seen_subcommand_from doctor' -l reset-ledger
complete -c pullet -n '__fish_seen_subcommand_from uninstall' -l dry-run
complete -c pullet -n '__fish_seen_subcommand_from uninstall' -l purge-resources
complete -c pullet -n '__fish_seen_subcommand_from uninstall' -l leave-cluster
complete -c pullet -n '__fish_seen_subcommand_from uninstall' -l yes
complete -c pullet -n '__fish_seen_subcommand_from uninstall' -l root -x
complete -c pullet -n '__fish_seen_subcommand_from version' -l json
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l config -rF -d 'configuration file'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l state-dir -xa '(__fish_complete_directories)' -d 'where the credential is kept'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l endpoint -x -d 'base URL of the control plane, https://…'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l token-file -rF -d 'file with the one-time registration token'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l cluster-id -x -d 'name of this cluster at the control plane'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l cluster-resource -x -d 'go by the Cluster object of this name, or by * for the only one there is'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l display-name -x -d 'what people read in the control plane’s list'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l ca-file -rF -d 'further CA certificates to trust, PEM'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l client-cert -rF -d 'certificate to show to a control plane that asks for one, PEM, with its chain'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l client-key -rF -d 'key of the client certificate, PEM, readable by this user alone'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l mtls -d 'have the control plane issue a client certificate, for a key made here'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l proxy -x -d 'HTTP proxy to the control plane, or none'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l wait -x -d 'seconds that a poll is held, 1 to 300'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l target -xa 'kubernetes directory' -d 'where jobs take effect: kubernetes'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l directory -xa '(__fish_complete_directories)' -d 'directory of the directory target'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l kubeconfig -rF -d 'kubeconfig'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l context -x -d 'context of the kubeconfig'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l allow-plain-http-loopback -d 'let the endpoint be http:// if it is on this machine'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l allow-kind -x -d 'a kind that jobs may touch beside ApplicationInstance and Operation, GROUP/KIND'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l keyring -rF -d 'the owner’s keyrings, one a line, or the fingerprint of the root key: pinned here, so that only signed jobs are done'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l signatures -xa 'require warn off' -d 'what is asked of a job’s signature'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l allow-namespace -x -d 'a namespace, or PREFIX*, that jobs may use'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l allow-chart -x -d 'charts that jobs may have installed: https://HOST/PATH or oci://HOST/PATH, with /* at its end for all below, with #NAME or #NAME@VERSION for one chart'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l allow-operation -xa 'Backup Migration Restore RunCommand Runbook Upgrade' -d 'a type of operations that jobs may request: Backup, Migration, Restore, RunCommand, Runbook or Upgrade'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l require-encrypted-secrets -d 'take a Secret only in an encrypted payload'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l succeed-on -xa 'ready applied' -d 'when a job counts as succeeded: ready'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l profile -xa 'standard metered' -d 'metered: poll once an hour with brief connections'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l poll-interval -x -d 'seconds between two polls of the metered profile, 60 to 86400'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l monthly-budget -x -d 'MB that a month of the metered profile may have, both ways'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l status-file -rF -d 'where the status of the running agent is written, for pullet status'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l metrics -x -d 'where /metrics, /healthz and /readyz are answered: 127.0.0.1:9464, [::1]:9464 or unix:/run/pullet/metrics.sock'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l ready-timeout -x -d 'seconds that an object may take to be ready'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l heartbeat-interval -x -d 'seconds between two signs of life, 60 to 86400'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l journal-size -x -d 'bytes of the journal, 65536 to 16777216 in pages of 4096'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l log-level -xa 'error warn info debug trace' -d 'error, warn, info'
complete -c pullet -n '__fish_seen_subcommand_from setup run register status journal check admission rbac doctor uninstall' -l log-format -xa 'text json' -d 'text or json'
