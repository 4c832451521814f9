//! The list of what `pullet doctor` has to look at, held against what it does: each subject has a check, each check is explained by
//! symptom, and each has a test that breaks that one thing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::agent::Agent;

/// What a node can be ill of, the check that sees it, and words of a finding that some test has seen.
const SUBJECTS: [(&str, &str, &str); 24] = [
    ("the name has no address", "dns", "control.invalid has no address"),
    ("a .local name does not resolve in a static binary", "dns", "mDNS"),
    ("the proxy", "proxy", "refuses the tunnel: 403"),
    ("TCP", "tcp", "refused"),
    ("the TLS chain", "tls", "by an authority that is not trusted here"),
    ("its expiry", "tls", "has expired"),
    ("the clock's offset", "clock", "days behind the control plane"),
    ("its confirmation", "clock", "behind a time that was confirmed before"),
    ("the credential is present", "credential", "not registered"),
    ("it is closed", "credential", "open to group or others"),
    ("it ends", "credential", "it ended"),
    ("the protocol's answer", "protocol", "something answered that is not the control plane (200"),
    ("the state directory's space", "state", "are needed"),
    ("its rights", "state", "can be written by others"),
    ("its medium", "medium", "in memory: gone with the next boot (tmpfs)"),
    ("the journal's health", "journal", "cannot be read"),
    ("the memory limit", "memory", "15360 kB for the agent"),
    ("the API server is reachable", "api-server", "no connection"),
    (
        "rights, exactly what is needed",
        "rights",
        "1 of 18 are missing: may not patch applicationinstances.apps.vworkspace.io",
    ),
    ("the custom resources", "definitions", "not defined: Operation"),
    ("the admission policy", "admission", "for other settings"),
    ("architecture and kernel", "machine", "Linux 2.6."),
    ("the version of k3s", "k3s", "Kubernetes v1.20"),
    ("another agent on the same identity", "one-agent", "this one does not"),
];

/// Checks beyond that list.
const BESIDES: [&str; 5] = ["agent", "certificate", "directory", "endpoint", "keyring"];

/// The tests that break one thing after the other.
const TESTS: [&str; 3] =
    [include_str!("doctor.rs"), include_str!("doctor_cluster.rs"), include_str!("doctor_files.rs")];

/// The names of the checks, as the program gives them.
fn checks() -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let output = Agent::run_to_end(["doctor", "--json", "--state-dir", state.to_str().unwrap()]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    checks.iter().map(|check| check["check"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_subject_has_a_check_and_each_check_a_test_that_breaks_it() {
    let checks: BTreeSet<String> = checks().into_iter().collect();
    let named: BTreeSet<String> =
        SUBJECTS.iter().map(|(_, check, _)| *check).chain(BESIDES).map(str::to_owned).collect();
    assert_eq!(named, checks, "the lists of this file");
    assert!(checks.len() >= 15);
    for (subject, check, words) in SUBJECTS {
        let seen = TESTS.iter().any(|text| text.contains(words));
        assert!(seen, "no test of {check} has seen {words:?}: {subject}");
    }
    for check in &checks {
        // A test has it end badly, by its name.
        let ends = ["failed", "warning", "note"];
        let is_broken = |text: &&str| {
            let text: String = text.split_whitespace().collect();
            ends.iter().any(|end| {
                ["tells(", "only("].iter().any(|call| text.contains(&format!("{call}\"{check}\",\"{end}\"")))
            })
        };
        // Where the verdict is one of a table, the check is asked for all the same.
        let by_table = check == "admission" && TESTS[1].contains(r#"("spec", "warning", "for other settings")"#);
        assert!(by_table || TESTS.iter().any(is_broken), "no test breaks {check}");
    }
}

#[test]
fn each_check_is_explained_and_nothing_is_that_there_is_not() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let text = fs::read_to_string(place).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let rows: Vec<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(rows, checks(), "the table of the checks, in the order in which they are told");
    for check in rows {
        // What it says when it is not well, and what that means.
        let symptom = format!("`{check}: ");
        let (_, explained) = text.split_once("## What is seen").expect("what follows the table");
        assert!(explained.contains(&symptom), "no symptom of {check} in docs/troubleshooting.md");
    }
}
