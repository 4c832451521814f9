//! What an installation reads, makes and waits for.

use std::time::Duration;

/// YAML values in a kubeconfig: twenty clusters have 600.
pub const KUBECONFIG_NODES: usize = 8_192;

/// Nesting in a kubeconfig: `exec` has six levels.
pub const KUBECONFIG_DEPTH: usize = 16;

/// A manifest or a configuration that `pullet setup` goes on from: settings, a keyring or a CA of 64 KiB each, and room.
pub const MANIFEST_BYTES: u64 = 192 * 1024;

/// How long the token of the agent's account lives that `pullet setup` asks for: ten years, as the node may be out of
/// reach for all of them. The API server may give less, and `setup` says what it gave.
pub const ACCOUNT_TOKEN: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long `pullet setup` waits for the first poll: a slow card takes 10 s to start the agent, k3s looks at its directory
/// every 15 s, and a pod that waits for its volume takes 30 s more.
pub const SETUP_PATIENCE: Duration = Duration::from_secs(120);

/// How often `pullet setup` looks whether it is so.
pub const SETUP_LOOK: Duration = Duration::from_millis(500);

/// Objects of one kind that `pullet uninstall --purge-resources` lists and removes at once. It says when there are more.
pub const PURGED_OBJECTS: usize = 500;

/// A line that a person types.
pub const TYPED_BYTES: u64 = 4 * 1024;
