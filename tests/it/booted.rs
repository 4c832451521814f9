//! The unit in a system that is booted, and the pod on a node: see tests/device/boot and tests/device/node, which look at
//! them from within.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::agent::{CLUSTER, write_secret};
use crate::scene::{SOON, apply, said, succeeds};
use crate::testbed::Testbed;

#[test]
#[ignore = "needs a booted Debian: root, control groups, loop devices and mmdebstrap; a minute of it"]
fn the_unit_is_what_it_says_in_a_system_that_was_booted_from_an_image() {
    let testbed = Testbed::start();
    let directory = tempfile::tempdir().unwrap();
    let tokens = ["first", "second", "third"].map(|name| {
        let file = directory.path().join(name);
        write_secret(&file, &testbed.issue_token(Some(CLUSTER)));
        file
    });
    let job = apply(&testbed, "booted");
    let built = PathBuf::from(env!("CARGO_BIN_EXE_pullet"));
    let binary = std::env::var_os("PULLET_STATIC").map(PathBuf::from).filter(|path| path.exists()).unwrap_or(built);
    let mut boot = Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/device/boot"));
    boot.arg(binary).arg(testbed.endpoint()).arg(testbed.ca_file()).args(&tokens).stdin(Stdio::null());
    let (code, text) = said(&boot.output().unwrap());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("- its user: pullet\n"), "{text}");
    succeeds(&testbed, &job, SOON);
    assert_eq!(testbed.violations(), Vec::<String>::new());
    #[allow(clippy::print_stderr, reason = "what was seen is worth a look with --nocapture")]
    {
        eprintln!("{text}");
    }
}

#[test]
#[ignore = "needs a node of Kubernetes: what tests/device/node names; ten minutes of it"]
fn the_pod_is_what_it_says_on_a_node() {
    let mut node = Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/device/node"));
    let (code, text) = said(&node.stdin(Stdio::null()).output().unwrap());
    assert_eq!(code, 0, "{text}");
    for seen in
        ["- its memory: 16777216\n", "- pullet setup --in-cluster: the Cluster is connected\n", "nothing is left"]
    {
        assert!(text.contains(seen), "{text}");
    }
    #[allow(clippy::print_stderr, reason = "what was seen is worth a look with --nocapture")]
    {
        eprintln!("{text}");
    }
}
