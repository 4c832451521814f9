//! The unit in a system that is booted, the pod on a node, and the pages on installing: see tests/device/boot, tests/device/node
//! and tests/device/pages, which look from within.

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
    let mut boot = Command::new(script("boot"));
    boot.arg(binary).arg(testbed.endpoint()).arg(testbed.ca_file()).args(&tokens);
    let text = passes(boot);
    assert!(text.contains("- its user: pullet\n"), "{text}");
    succeeds(&testbed, &job, SOON);
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Debian and an API server: what tests/device/pages names; some minutes of it"]
fn the_commands_of_the_pages_do_what_they_say() {
    let text = passes(Command::new(script("pages")));
    for page in
        ["k3s.md has it: What it does", "proxy.md has it: Trying it", "raspberry-pi.md has it: On a Pi that runs"]
    {
        assert!(text.contains(page), "{text}");
    }
}

#[test]
#[ignore = "needs a node of Kubernetes: what tests/device/node names; ten minutes of it"]
fn the_pod_is_what_it_says_on_a_node() {
    let text = passes(Command::new(script("node")));
    for seen in ["- its memory: 16777216\n", "k3s.md has it: As a pod, command 1\n", "nothing is left"] {
        assert!(text.contains(seen), "{text}");
    }
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/device").join(name)
}

/// What one of them has seen.
fn passes(mut script: Command) -> String {
    let (code, text) = said(&script.stdin(Stdio::null()).output().unwrap());
    assert_eq!(code, 0, "{text}");
    #[allow(clippy::print_stderr, reason = "what was seen is worth a look with --nocapture")]
    {
        eprintln!("{text}");
    }
    text
}
