//! A control plane that lets in only who shows a certificate, and certificates that change while the agent runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::scene::{LATER, SOON, apply, goes_on, quick, says, succeeds};
use crate::testbed::{Clients, Options, Testbed};

fn put(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::set_permissions(&beside, Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

fn strict() -> (Testbed, Arc<Clients>) {
    let clients = Arc::new(Clients::new());
    (Testbed::with(Options { clients: Some(Arc::clone(&clients)), ..Options::default() }), clients)
}

#[test]
fn only_who_shows_a_certificate_is_let_in() {
    let (testbed, clients) = strict();
    says(&quick(&testbed).run_to_end("register"), 1, &["pullet: "]);
    let (certificate, key) = (testbed.directory().join("tls.crt"), testbed.directory().join("tls.key"));
    let setup = quick(&testbed).flag("--client-cert", &certificate).flag("--client-key", &key);
    let (chain, secret) = Clients::new().issue();
    put(&certificate, &chain);
    put(&key, &secret);
    says(&setup.run_to_end("register"), 1, &["pullet: "]);
    assert_eq!(testbed.requests().len(), 0);
    let (chain, secret) = clients.issue();
    put(&certificate, &chain);
    says(&setup.run_to_end("register"), 2, &["cannot be used together"]);
    put(&key, &secret);
    let _agent = setup.spawn();
    goes_on(&testbed);
}

#[test]
fn a_certificate_alone_or_one_with_an_open_key_is_wrong_usage() {
    let (testbed, clients) = strict();
    let (certificate, key) = (testbed.directory().join("tls.crt"), testbed.directory().join("tls.key"));
    let (chain, secret) = clients.issue();
    put(&certificate, &chain);
    put(&key, &secret);
    let alone = quick(&testbed).flag("--client-cert", &certificate);
    says(&alone.run_to_end("run"), 2, &["client_key is missing"]);
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    says(&alone.flag("--client-key", &key).run_to_end("run"), 2, &["tls.key", "chmod 0600"]);
}

#[test]
fn a_new_certificate_is_used_without_a_restart_and_a_bad_one_is_not() {
    let (mut testbed, clients) = strict();
    let (certificate, key) = (testbed.directory().join("tls.crt"), testbed.directory().join("tls.key"));
    let (chain, secret) = clients.issue();
    put(&certificate, &chain);
    put(&key, &secret);
    let setup = quick(&testbed).flag("--client-cert", &certificate).flag("--client-key", &key);
    let agent = setup.spawn();
    goes_on(&testbed);
    let (chain, secret) = Clients::new().issue();
    put(&key, &secret);
    put(&certificate, &chain);
    agent.wait_for_log("those of before stay in use", SOON);
    // A heartbeat goes out when the connection is back.
    testbed.down();
    agent.wait_for_log("it is tried again", SOON);
    testbed.up();
    testbed.event("what became of the new certificate", LATER, |event| {
        event.to_string().contains("NewCertificatesUnusable")
    });
    goes_on(&testbed);
    let (chain, secret) = clients.issue();
    put(&key, &secret);
    put(&certificate, &chain);
    agent.wait_for_log("the changed certificates are in use", SOON);
    goes_on(&testbed);
}

/// The new authority is put beside the old one, the server changes over, the old one is taken away; and with each turn the
/// client's certificate is renewed, too.
#[test]
fn changes_of_the_authority_and_of_the_certificate_under_load_lose_no_job_and_need_no_restart() {
    let turns = if std::env::var_os("PULLET_LONG").is_some() { 100 } else { 10 };
    let (mut testbed, clients) = strict();
    let (certificate, key) = (testbed.directory().join("tls.crt"), testbed.directory().join("tls.key"));
    let renew = || {
        let (chain, secret) = clients.issue();
        put(&key, &secret);
        put(&certificate, &chain);
    };
    renew();
    let bundle = testbed.directory().join("bundle.pem");
    let mut current = testbed.ca_pem().to_owned();
    put(&bundle, &current);
    let setup = quick(&testbed).flag("--client-cert", &certificate).flag("--client-key", &key);
    let mut agent = setup.flag("--ca-file", &bundle).spawn();
    goes_on(&testbed);
    let mut commits = 0;
    let mut jobs = Vec::new();
    for turn in 0..turns {
        jobs.extend((0..3).map(|n| apply(&testbed, &format!("load-{turn}-{n}"))));
        let (next, shown) = Testbed::next_authority(Some(&clients));
        put(&bundle, &format!("{current}{next}"));
        commits = committed(&agent, commits);
        jobs.extend((3..6).map(|n| apply(&testbed, &format!("load-{turn}-{n}"))));
        testbed.show(shown);
        let after = apply(&testbed, &format!("after-{turn}"));
        succeeds(&testbed, &after, LATER);
        put(&bundle, &next);
        commits = committed(&agent, commits);
        renew();
        commits = committed(&agent, commits);
        current = next;
    }
    for job in &jobs {
        succeeds(&testbed, job, LATER);
    }
    assert!(agent.is_running());
    assert!(agent.stop().status.success());
}

/// Waits until changed files are in use once more; gives how often that was.
fn committed(agent: &Agent, before: usize) -> usize {
    let deadline = Instant::now() + LATER;
    loop {
        let now = agent.log().matches("the changed certificates are in use").count();
        if now > before {
            return now;
        }
        assert!(Instant::now() < deadline, "the files were not taken over: {}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
