//! What root does in the state directory of the agent's user belongs to that one afterwards.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::agent::{Setup, run_to_end, write_secret};
use crate::apiserver::wait_until;
use crate::doctor::{Seen, doctor, run_in_mounts};
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
    let readable = setup.home().join("ca.pem");
    let by_own = setup.without("--token-file").flag("--token-file", own);
    let by_own = by_own.without("--ca-file").flag("--ca-file", readable);
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

/// Runs a command on a machine whose `/etc/pullet` holds what a script puts there.
fn with_etc(setup: &Setup, command: &Command, script: &str) -> Output {
    let work = setup.home().join("work");
    let _ = fs::create_dir(&work);
    let work = work.display();
    let lay = format!(
        "mount -t tmpfs none {work} && mkdir {work}/u {work}/w && mount -t overlay -o \
         lowerdir=/etc,upperdir={work}/u,workdir={work}/w none /etc && mkdir -p -m 0700 /etc/pullet/credentials && {script}"
    );
    run_in_mounts(command, &lay)
}

/// The unit is stopped: what it is given lies closed to all but root, and is found all the same.
#[test]
#[ignore = "needs root, to be somebody else, and mounts of its own"]
fn what_the_unit_is_given_is_found_while_it_is_stopped() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    let bare = setup.clone().without("--ca-file").without("--token-file");
    let closed = setup.home().join("closed");
    let put = format!("cd {} && install -m 0600 ca.pem /etc/pullet/credentials/pullet.ca", closed.display());
    let put = format!("{put} && install -m 0600 token /etc/pullet/credentials/pullet.token");
    says(&with_etc(&setup, &bare.prepare("register"), "true"), 2, &["token_file is missing"]);
    says(&with_etc(&setup, &bare.prepare("register"), &put), 0, &["registered as c1"]);
    let names = is_all_the_users(&setup.state_dir());
    assert_eq!(names, ["credential.json"]);
    let look = bare.clone().switch("--json").prepare("doctor");
    Seen::of(&with_etc(&setup, &look, "true")).tells("tls", "failed", &["not trusted here"]);
    let seen = Seen::of(&with_etc(&setup, &look, &put));
    seen.tells("tls", "ok", &["Testbed authority"]).tells("protocol", "ok", &["accepts the credential"]);
    seen.tells("keyring", "skipped", &["no key is pinned"]);
    assert_eq!(is_all_the_users(&setup.state_dir()), names);
    // What is wrong with one is said by the name that a person knows.
    let junk =
        format!("{put} && echo junk >/etc/pullet/credentials/pullet.keyring && : >/etc/pullet/credentials/pullet.ca");
    let seen = Seen::of(&with_etc(&setup, &look, &junk));
    seen.tells("keyring", "failed", &["/etc/pullet/credentials/pullet.keyring", "neither a keyring nor a fingerprint"]);
    let nothing = format!("{put} && echo nothing >/etc/pullet/credentials/pullet.ca");
    let seen = Seen::of(&with_etc(&setup, &look, &nothing));
    seen.tells("tls", "failed", &["/etc/pullet/credentials/pullet.ca", "holds no PEM certificate"]);
    // With a key, what is registered is wrapped by it, and read again with it.
    write_secret(&closed.join("token"), &testbed.issue_token(Some("c1")));
    let key = format!("{put} && head -c 32 /etc/passwd >/etc/pullet/credentials/pullet.key");
    let again = bare.clone().switch("--force").prepare("register");
    says(&with_etc(&setup, &again, &key), 0, &["registered as c1"]);
    Seen::of(&with_etc(&setup, &look, &key)).tells("credential", "ok", &["closed to others and sealed"]);
    Seen::of(&with_etc(&setup, &look, &put)).tells("credential", "failed", &["sealed"]);
}

#[test]
#[ignore = "needs root, to be somebody else"]
fn the_proxy_of_the_unit_is_the_doctors() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let readable = setup.home().join("ca.pem");
    fs::copy(testbed.ca_file(), &readable).unwrap();
    fs::set_permissions(&readable, Permissions::from_mode(0o644)).unwrap();
    let setup = setup.without("--ca-file").flag("--ca-file", readable);
    let bin = setup.home().join("bin");
    fs::create_dir(&bin).unwrap();
    let systemctl = bin.join("systemctl");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let by = |answer: &str| {
        fs::write(&systemctl, format!("#!/bin/sh\n{answer}\n")).unwrap();
        fs::set_permissions(&systemctl, Permissions::from_mode(0o755)).unwrap();
        doctor(&setup.clone().env("PATH", &path))
    };
    let show =
        r#"[ "$*" = "show --property=Environment --value pullet" ] && echo A=b HTTPS_PROXY=http://proxy.invalid:3128"#;
    // It is asked for a second.
    wait_until("the proxy is known", || by(show).find("dns")[1] == "failed");
    by(show).tells("dns", "failed", &["of the proxy: proxy.invalid"]);
    by(&format!("{show} NO_PROXY=127.0.0.1")).tells("protocol", "ok", &["accepts the credential"]);
    by("exit 1").tells("proxy", "ok", &["none"]);
    by("head -c 1000000 /dev/zero").tells("proxy", "ok", &["none"]);
    let begin = Instant::now();
    by("exec sleep 60").tells("proxy", "ok", &["none"]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs root, to be somebody else, and mounts of its own"]
fn a_configuration_that_is_closed_is_no_empty_one() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    let program = setup.home().join("pullet");
    fs::copy(env!("CARGO_BIN_EXE_pullet"), &program).unwrap();
    let close = "echo 'allow_kind = [\"/ConfigMap\"]' >/etc/pullet/pullet.toml && chmod 0750 /etc/pullet";
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(arguments);
        with_etc(&setup, &command, close)
    };
    for command in ["doctor", "rbac", "admission", "journal", "run", "register"] {
        let words = ["/etc/pullet/pullet.toml cannot be read", "run this as root (sudo)"];
        says(&as_user(&[command]), 2, &words);
    }
    says(&as_user(&["status", "--status-file", "/nonexistent/status.json"]), 1, &["not running"]);
    says(&as_user(&["status", "--config", "/etc/pullet/pullet.toml"]), 2, &["run this as root (sudo)"]);
    let mut root = Command::new(&program);
    root.arg("rbac");
    says(&with_etc(&setup, &root, close), 0, &["configmaps"]);
}

/// Root asks what would become of a job by the agent's own files.
#[test]
#[ignore = "needs root, to be somebody else"]
fn root_checks_a_job_as_the_agent_would() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let job = setup.home().join("closed/job.json");
    write_secret(&job, "{}");
    let mut command = setup.prepare("check");
    command.arg(&job);
    says(&run_to_end(command), 1, &["stopped", "refused: MalformedJob"]);
}
