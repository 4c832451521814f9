//! Squid, as it stands at the edge of many a network.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::agent::CLUSTER;
use crate::doctor::doctor;
use crate::node::pinned;
use crate::proxy::server;
use crate::scene::{LATER, SOON, goes_on, quick, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::owner::{Owner, payload_key};
use crate::testbed::{Call, Job, Testbed, authority_of_another_program};

/// Squid on a port of the loopback, ended when dropped.
struct Squid {
    child: Child,
    port: u16,
    home: TempDir,
}

impl Squid {
    /// One that lets tunnels through to this control plane.
    fn start(testbed: &Testbed) -> Self {
        Self::with(testbed, |_| String::new())
    }

    /// One that opens the tunnels: it shows a certificate of its own authority, and reads all that passes.
    fn in_the_middle(testbed: &Testbed) -> Self {
        Self::with(testbed, |home| {
            let (certificate, key) = authority_of_another_program();
            fs::write(home.join("ca.pem"), &certificate).unwrap();
            fs::write(home.join("squid.pem"), certificate + &key).unwrap();
            let tool = "/usr/lib/squid/security_file_certgen";
            let made =
                Command::new(tool).args(["-c", "-s"]).arg(home.join("certificates")).args(["-M", "4MB"]).output();
            assert!(made.expect("squid-openssl is installed").status.success());
            let place = home.display();
            format!(
                " ssl-bump generate-host-certificates=on tls-cert={place}/squid.pem\n\
                 sslcrtd_program {tool} -s {place}/certificates -M 4MB\nsslcrtd_children 1\n\
                 tls_outgoing_options cafile={}\nssl_bump bump all",
                testbed.ca_file().display()
            )
        })
    }

    fn with(testbed: &Testbed, more: impl FnOnce(&Path) -> String) -> Self {
        let home = TempDir::new().unwrap();
        // Squid drops its rights when root starts it, and has to write here all the same.
        fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (place, more) = (home.path().display(), more(home.path()));
        let server_port = server(testbed).rsplit(':').next().unwrap().to_owned();
        let config = format!(
            "http_port 127.0.0.1:{port}{more}\npid_filename {place}/pid\naccess_log stdio:{place}/access\n\
             cache_log {place}/cache\ncache deny all\nmax_filedescriptors 1024\ncoredump_dir {place}\nshutdown_lifetime 0 seconds\n\
             acl ours port {server_port}\nhttp_access allow ours\nhttp_access deny all\n"
        );
        fs::write(home.path().join("squid.conf"), config).unwrap();
        let child = Command::new("squid")
            .args(["-N", "-f"])
            .arg(home.path().join("squid.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("squid is installed");
        let squid = Self { child, port, home };
        let deadline = Instant::now() + SOON;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{}", squid.log("cache"));
            thread::sleep(Duration::from_millis(50));
        }
        squid
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.home.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs squid: apt-get install squid"]
fn a_real_squid_lets_the_agent_through_and_its_refusal_is_said() {
    let testbed = Testbed::start();
    let squid = Squid::start(&testbed);
    let setup = quick(&testbed).flag("--proxy", format!("http://127.0.0.1:{}", squid.port));
    let mut agent = setup.spawn();
    goes_on(&testbed);
    assert!(agent.stop().status.success());
    let access = squid.log("access");
    let tunnel = format!("CONNECT {}", server(&testbed));
    assert!(access.contains(&tunnel) && access.contains("TCP_TUNNEL/200"), "{access}");
    // A port that its rules do not allow.
    let elsewhere = Testbed::start();
    let refused = quick(&elsewhere).flag("--proxy", format!("http://127.0.0.1:{}", squid.port));
    says(&refused.run_to_end("register"), 1, &["the proxy did not let us through", "403"]);
    assert_eq!(elsewhere.counts().connections, 0);
}

/// A company's proxy that reads along: it is believed when its authority is named, and even then it can do nothing to a node
/// whose jobs are signed, nor read what is encrypted.
#[test]
#[ignore = "needs squid with OpenSSL: apt-get install squid-openssl"]
fn a_real_squid_in_the_middle_is_believed_when_it_is_named_and_reads_no_payload() {
    const MARKER: &str = "geheimnis-der-klinik";
    const OPEN: &str = "signiert-und-lesbar";
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let squid = Squid::in_the_middle(&testbed);
    // Squid has a certificate for a name, not for an address.
    let setup = pinned(&testbed, &[owner.keyring(1)])
        .flag("--endpoint", testbed.endpoint_by_name())
        .flag("--proxy", format!("http://127.0.0.1:{}", squid.port));
    says(&setup.run_to_end("register"), 1, &["an authority that is not trusted here"]);
    assert_eq!(testbed.requests().len(), 0, "the token was not shown to it");
    let mut agent = setup.flag("--ca-file", squid.home.path().join("ca.pem")).spawn();
    testbed.wait_for("a poll", SOON, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Jobs)).then_some(())
    });
    let secret = Job::apply(config_map("clinic", "patients", MARKER));
    let open = testbed.enqueue(CLUSTER, owner.sign(CLUSTER, Job::apply(config_map("clinic", "open", OPEN))));
    let id = testbed.enqueue(CLUSTER, owner.seal(CLUSTER, secret, &payload_key(&testbed)));
    for id in [&open, &id] {
        succeeds(&testbed, id, LATER);
    }
    let files = fs::read_dir(agent.directory()).unwrap().filter_map(Result::ok);
    let applied: Vec<String> = files.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect();
    for text in [OPEN, MARKER] {
        assert!(applied.iter().any(|applied| applied.contains(text)), "it was applied: {applied:?}");
    }
    // Somebody who sits there and sends what he likes.
    let forged = testbed.enqueue(CLUSTER, Owner::new().sign(CLUSTER, Job::apply(config_map("clinic", "forged", "x"))));
    let result = testbed.result_of(&forged, LATER);
    assert_eq!(result["outcome"], "failed", "{result}");
    assert!(result["error"].as_str().unwrap().starts_with("UnknownKey"), "{result}");
    assert!(agent.stop().status.success());
    let access = squid.log("access");
    assert!(access.contains("/jobs"), "it read along: {access}");
    // All that it could read, in either direction; what is not encrypted shows that this looks at the right place.
    let requests = testbed.requests();
    let passed = |text: &str| {
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        requests.iter().any(|seen| holds(&seen.body) || holds(&seen.answer))
    };
    assert!(passed(OPEN));
    assert!(!passed(MARKER));
}

/// The rules of docs/install/proxy.md, with the names and the port of here.
#[test]
#[ignore = "needs squid: apt-get install squid"]
fn squid_with_the_rules_of_the_documentation_lets_the_agent_through_with_and_without_a_password() {
    let page = fs::read_to_string("docs/install/proxy.md").unwrap();
    let rules = page.split("```").find(|block| block.trim_start().starts_with("acl control_plane")).unwrap();
    let testbed = Testbed::start();
    let port = server(&testbed).rsplit(':').next().unwrap().to_owned();
    let rules = rules.replace("control.example.org", "localhost").replace("443", &port);
    let setup = quick(&testbed).flag("--endpoint", testbed.endpoint_by_name());
    let open = Squid::with(&testbed, |_| format!("\n{rules}\nhttp_access deny all"));
    let through = setup.clone().flag("--proxy", format!("http://127.0.0.1:{}", open.port));
    says(&through.run_to_end("register"), 0, &["registered as c1"]);
    doctor(&through).tells("proxy", "ok", &["lets us through"]).tells("protocol", "ok", &["accepts the credential"]);
    let by_address = through.without("--endpoint").flag("--endpoint", testbed.endpoint());
    doctor(&by_address).tells("proxy", "failed", &["refuses the tunnel: 403", "allow CONNECT"]);
    let closed = Squid::with(&testbed, |home| {
        // htpasswd, of the password that is used here.
        fs::write(home.join("passwords"), "user:$apr1$yFZyVRmI$48y8bcf6aZ8nGkB/h.jRj/\n").unwrap();
        let helper = format!("auth_param basic program /usr/lib/squid/basic_ncsa_auth {}/passwords", home.display());
        let rules = rules.replace("CONNECT control_plane", "CONNECT known control_plane");
        format!("\n{helper}\nacl known proxy_auth REQUIRED\n{rules}\nhttp_access deny all")
    });
    let with = |who: &str| doctor(&setup.clone().flag("--proxy", format!("http://{who}127.0.0.1:{}", closed.port)));
    with("user:geheim42@").tells("protocol", "ok", &["accepts the credential"]);
    for who in ["", "user:geheim43@"] {
        with(who).tells("proxy", "failed", &["wants a user and a password: 407", "user:password@"]);
    }
}

/// What a filter shows that reads along is told with the name of whoever issued it.
#[test]
#[ignore = "needs squid: apt-get install squid"]
fn the_doctor_names_the_authority_of_a_proxy_that_reads_along() {
    let testbed = Testbed::start();
    let squid = Squid::in_the_middle(&testbed);
    let setup = quick(&testbed).flag("--proxy", format!("http://127.0.0.1:{}", squid.port));
    let seen = doctor(&setup);
    seen.tells("proxy", "ok", &["lets us through"]);
    seen.tells("tls", "failed", &["not trusted here", "it says it is by ", "reads along"]);
}
