//! A real nginx that lets in only who shows a certificate, in front of the control plane.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::agent::{Setup, write_secret};
use crate::scene::{LATER, SOON, apply, goes_on, quick, says, succeeds};
use crate::testbed::{Clients, Issue, Options, Testbed, server_pem};

struct Nginx {
    child: Child,
    port: u16,
    home: TempDir,
}

impl Nginx {
    /// Who shows no certificate is let in to nothing, or where the control plane issues them, to a registration and a
    /// rotation.
    fn start(testbed: &Testbed, clients: &Clients) -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (authority, certificate, key) = server_pem();
        for (name, text) in
            [("ca.pem", authority), ("server.crt", certificate), ("server.key", key), ("clients.pem", clients.ca_pem())]
        {
            write_secret(&home.path().join(name), &text);
        }
        let (at, behind) = (home.path().display(), testbed.endpoint());
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .concat();
        let pass =
            format!("proxy_pass {behind}; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 400s;");
        let rules = if clients.issues() {
            format!(
                "ssl_verify_client optional;\n\
                 location ~ ^/api/agent/(register|credentials/rotate)$ {{ {pass} }}\n\
                 location / {{ if ($ssl_client_verify != SUCCESS) {{ return 403; }} {pass} }}"
            )
        } else {
            format!("ssl_verify_client on;\nlocation / {{ {pass} }}")
        };
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log info;\n\
             events {{ worker_connections 64; }}\nhttp {{\naccess_log {at}/access.log;\n{places}\
             server {{\nlisten 127.0.0.1:{port} ssl;\nssl_certificate {at}/server.crt;\n\
             ssl_certificate_key {at}/server.key;\nssl_client_certificate {at}/clients.pem;\n{rules}\n}}\n}}\n"
        );
        fs::write(home.path().join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(home.path())
            .arg("-c")
            .arg(home.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { child, port, home };
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(nginx.home.path().join("error.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{log}");
            thread::sleep(Duration::from_millis(50));
        }
        nginx
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn setup(&self, testbed: &Testbed) -> Setup {
        quick(testbed)
            .flag("--endpoint", format!("https://127.0.0.1:{}", self.port))
            .flag("--ca-file", self.file("ca.pem"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("access.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs nginx: apt-get install nginx-light"]
fn a_real_nginx_lets_in_who_shows_a_certificate_also_while_it_is_renewed_under_load() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let clients = Clients::new();
    let nginx = Nginx::start(&testbed, &clients);
    says(&nginx.setup(&testbed).run_to_end("register"), 1, &["pullet: "]);
    let (certificate, key) = (nginx.file("tls.crt"), nginx.file("tls.key"));
    let put = |issuer: &Clients| {
        let (chain, secret) = issuer.issue();
        for (path, text) in [(&key, secret), (&certificate, chain)] {
            let beside = path.with_extension("new");
            write_secret(&beside, &text);
            fs::rename(beside, path).unwrap();
        }
    };
    let setup = nginx.setup(&testbed).flag("--client-cert", &certificate).flag("--client-key", &key);
    put(&Clients::new());
    says(&setup.run_to_end("register"), 1, &["pullet: "]);
    assert_eq!(testbed.requests().len(), 0, "{}", nginx.log());
    put(&clients);
    let mut agent = setup.spawn();
    goes_on(&testbed);
    // nginx takes the connection and then says 400.
    put(&Clients::new());
    agent.wait_for_log("those of before stay in use", SOON);
    goes_on(&testbed);
    let mut jobs = Vec::new();
    for turn in 1..=5 {
        jobs.extend((0..4).map(|n| apply(&testbed, &format!("load-{turn}-{n}"))));
        put(&clients);
        let deadline = Instant::now() + LATER;
        while agent.log().matches("the changed certificates are in use").count() < turn {
            assert!(Instant::now() < deadline, "{}", agent.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
    for job in &jobs {
        succeeds(&testbed, job, LATER);
    }
    assert!(agent.stop().status.success());
    assert!(testbed.violations().is_empty(), "{:?}", testbed.violations());
}

/// As docs/mtls.md has it: nginx asks everybody for a certificate and lets in to two calls who has none.
#[test]
#[ignore = "needs nginx: apt-get install nginx-light"]
fn a_real_nginx_takes_the_certificates_that_the_control_plane_issues() {
    let clients = Arc::new(Clients::issuing());
    let testbed =
        Testbed::with(Options { plain_http: true, clients: Some(Arc::clone(&clients)), ..Options::default() });
    let nginx = Nginx::start(&testbed, &clients);
    let setup = nginx.setup(&testbed).switch("--mtls");
    let mut agent = setup.spawn();
    goes_on(&testbed);
    testbed.behave(|behaviour| behaviour.issue = Issue::ByStranger);
    agent.signal(Signal::USR1);
    // nginx takes the connection and then says 400, in HTML.
    agent.wait_for_log("the new client certificate cannot be used", LATER);
    goes_on(&testbed);
    testbed.behave(|behaviour| behaviour.issue = Issue::Good);
    agent.signal(Signal::USR1);
    agent.wait_for_log("a new client certificate is in use", LATER);
    goes_on(&testbed);
    assert!(agent.stop().status.success());
    // Without the setting there is none to be shown.
    let mut agent = setup.without("--mtls").spawn();
    agent.wait_for_log("403", SOON);
    agent.stop();
    assert!(testbed.violations().is_empty(), "{:?}", testbed.violations());
    assert!(nginx.log().contains("POST /api/agent/credentials/rotate HTTP/1.1\" 200"), "{}", nginx.log());
}
