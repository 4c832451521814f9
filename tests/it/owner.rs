//! What root does in the state directory of the agent's user belongs to that one afterwards.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::agent::{Setup, run_to_end, write_secret};
use crate::doctor::doctor;
use crate::scene::{SOON, quick, said, says};
use crate::testbed::Testbed;

/// Who the agent runs as.
const USER: u32 = 65_534;

/// A node whose state directory belongs to the agent's user; token and authorities lie where that one may not look.
fn node(testbed: &Testbed) -> Setup {
    let setup = quick(testbed);
    fs::set_permissions(setup.home(), Permissions::from_mode(0o755)).unwrap();
    for path in [setup.state_dir(), setup.directory()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let closed = setup.home().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    fs::copy(testbed.ca_file(), closed.join("ca.pem")).unwrap();
    fs::rename(setup.home().join("token"), closed.join("token")).unwrap();
    setup.flag("--ca-file", closed.join("ca.pem")).flag("--token-file", closed.join("token"))
}

/// All that is there is the user's, and closed; the names.
#[track_caller]
fn is_all_the_users(state: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(state).unwrap().map(Result::unwrap) {
        let (found, name) = (entry.metadata().unwrap(), entry.file_name().into_string().unwrap());
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (USER, USER, 0o600), "{name}");
        names.push(name);
    }
    names.sort();
    names
}

/// The agent, as its user, with authorities that it may read.
fn spawn(setup: &Setup, testbed: &Testbed) -> Child {
    let ca = setup.home().join("ca.pem");
    fs::copy(testbed.ca_file(), &ca).unwrap();
    fs::set_permissions(&ca, Permissions::from_mode(0o644)).unwrap();
    let program = setup.home().join("pullet");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_pullet"), &program).unwrap();
    }
    let setup = setup.clone().without("--ca-file").flag("--ca-file", ca).without("--token-file");
    let inner = setup.without("--status-file").flag("--status-file", "none").prepare("run");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&program).args(inner.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
#[ignore = "needs root, to be somebody else"]
fn what_root_registers_the_agent_can_use() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    let token = setup.home().join("closed/token");
    let good = fs::read_to_string(&token).unwrap();
    // A try that fails leaves its keys, for the agent as well.
    write_secret(&token, "not-a-token-0123456789abcdef");
    says(&setup.run_to_end("register"), 1, &["does not accept the one-time token"]);
    assert_eq!(is_all_the_users(&setup.state_dir()), ["keys.json"]);
    write_secret(&token, &good);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    assert_eq!(is_all_the_users(&setup.state_dir()), ["credential.json"]);
    let mut agent = spawn(&setup, &testbed);
    testbed.held_poll(SOON);
    agent.kill().unwrap();
    agent.wait().unwrap();
    says(&setup.run_to_end("register"), 1, &["already registered as c1"]);

    // What an earlier version left as root's is seen, and given back by the next registration.
    let credential = setup.state_dir().join("credential.json");
    chown(&credential, Some(0), Some(0)).unwrap();
    doctor(&setup).tells("credential", "failed", &["Permission denied", "chown it to the agent's user"]);
    // A second name of a file that lies elsewhere is nobody's to have.
    let elsewhere = setup.home().join("closed/root's");
    write_secret(&elsewhere, "x");
    fs::hard_link(&elsewhere, setup.state_dir().join("mine")).unwrap();
    std::os::unix::fs::symlink(&token, setup.state_dir().join("link")).unwrap();
    write_secret(&token, &testbed.issue_token(Some("c1")));
    says(&setup.clone().switch("--force").run_to_end("register"), 0, &["registered as c1"]);
    for theirs in [&elsewhere, &token] {
        assert_eq!(fs::metadata(theirs).unwrap().uid(), 0, "{}", theirs.display());
    }
    for name in ["mine", "link"] {
        fs::remove_file(setup.state_dir().join(name)).unwrap();
    }
    is_all_the_users(&setup.state_dir());
    // A token of the user's own is taken, too.
    write_secret(&token, &testbed.issue_token(Some("c1")));
    let own = setup.home().join("own");
    fs::rename(&token, &own).unwrap();
    chown(&own, Some(USER), Some(USER)).unwrap();
    let by_own = setup.without("--token-file").flag("--token-file", own);
    says(&by_own.switch("--force").run_to_end("register"), 0, &["registered as c1"]);
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root, to be somebody else"]
fn what_root_sets_right_stays_the_agents() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    let mut command = setup.prepare("doctor");
    command.arg("--reset-ledger");
    let output = run_to_end(command);
    assert!(said(&output).1.contains("the journal has no ledger yet"), "{}", said(&output).1);
    assert_eq!(is_all_the_users(&setup.state_dir()), ["checkpoint", "journal", "spool"]);
}
