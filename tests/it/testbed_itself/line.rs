//! Connections, certificates, the server down and up, what is written down.

use std::net::TcpStream;
use std::time::Duration;

use pullet::net::{NetError, ProxySetting};
use serde_json::json;

use super::{Client, SOON};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Certificate, Options, Proxy, Testbed};

#[test]
fn a_server_that_is_down_refuses_and_comes_back_on_its_port() {
    let mut testbed = Testbed::start();
    let client = Client::of(&testbed);
    let endpoint = testbed.endpoint();
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
    for _ in 0..3 {
        testbed.down();
        testbed.down();
        let address = endpoint.replace("https://", "");
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(client.try_get("/jobs?cluster=c1&wait=0").is_err());
        let meanwhile = testbed.apply("c1", config_map("n", "b", "x"));
        testbed.up();
        testbed.up();
        assert_eq!(testbed.endpoint(), endpoint);
        let jobs = Client::of(&testbed).get("/jobs?cluster=c1&wait=0").jobs();
        assert!(jobs.iter().any(|job| job["id"] == *id) && jobs.iter().any(|job| job["id"] == *meanwhile));
    }
}

#[test]
fn no_two_testbeds_share_a_port() {
    let testbeds: Vec<Testbed> = (0..200).map(|_| Testbed::start()).collect();
    let ports: std::collections::BTreeSet<String> = testbeds.iter().map(Testbed::endpoint).collect();
    assert_eq!(ports.len(), testbeds.len());
}

#[test]
fn going_down_and_cutting_end_a_held_poll() {
    let mut testbed = Testbed::start();
    let client = Client::of(&testbed);
    for down in [false, true] {
        std::thread::scope(|scope| {
            let poll = scope.spawn(|| client.try_get("/jobs?cluster=c1&wait=30"));
            testbed.held_poll(SOON);
            if down {
                testbed.down();
            } else {
                testbed.cut_connections();
            }
            assert!(poll.join().unwrap().is_err());
        });
        testbed.wait_for("no held poll", SOON, |state| (state.counts.held == 0).then_some(()));
    }
}

#[test]
fn a_client_that_goes_away_takes_no_job_with_it() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    std::thread::scope(|scope| {
        let request = client.request("GET", "/jobs?cluster=c1&wait=30", b"");
        let client = &client;
        let poll = scope.spawn(move || client.send_within(request, Duration::from_secs(2)));
        testbed.held_poll(SOON);
        assert!(poll.join().unwrap().is_err());
    });
    testbed.wait_for("no held poll", SOON, |state| (state.counts.held == 0).then_some(()));
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    assert!(testbed.job(&id).offered.is_empty());
}

#[test]
fn only_the_right_certificate_is_believed() {
    for certificate in
        [Certificate::Expired, Certificate::NotYetValid, Certificate::OtherAuthority, Certificate::OtherName]
    {
        let testbed = Testbed::with(Options { certificate, ..Options::default() });
        let error = Client::of(&testbed).try_get("/jobs?cluster=c1&wait=0").unwrap_err();
        assert!(matches!(error, NetError::Tls(_)), "{certificate:?}: {error:?}");
        testbed.wait_for("a failed handshake", SOON, |state| {
            (state.counts.failed_handshakes == 1 && state.counts.handshakes == 0).then_some(())
        });
    }
    let testbed = Testbed::start();
    let mut client = Client::of(&testbed);
    client.endpoint = testbed.endpoint_by_name();
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
}

#[test]
fn plain_http_is_spoken_when_asked_for() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    assert!(testbed.endpoint().starts_with("http://127.0.0.1:"));
    assert_eq!(Client::of(&testbed).get("/jobs?cluster=c1&wait=0").status, 200);
    assert_eq!(testbed.counts().handshakes, 0);
}

#[test]
fn a_second_connection_resumes_the_session() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
    testbed.cut_connections();
    // The kept connection may be tried once more before its end is seen.
    let _ = client.try_get("/jobs?cluster=c1&wait=0");
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
    let counts = testbed.counts();
    assert_eq!((counts.handshakes, counts.resumed), (2, 1));
}

#[test]
fn the_log_of_requests_has_everything_but_the_bearer() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    client.post("/credentials/rotate", &json!({}));
    client.get("/jobs?cluster=c1&wait=0");
    let requests = testbed.requests();
    let rotate = &requests[0];
    assert_eq!((rotate.method.as_str(), rotate.path.as_str()), ("POST", "/api/agent/credentials/rotate"));
    assert_eq!((rotate.call, rotate.body.as_slice()), (Some(Call::Rotate), &b"{}"[..]));
    assert_eq!(rotate.header("content-length"), Some("2"));
    assert_eq!(rotate.header("authorization"), None);
    assert_eq!(rotate.answered.unwrap().1, 200);
    assert_eq!(requests[1].query.as_deref(), Some("cluster=c1&wait=0"));
    assert_eq!(requests[0].connection, requests[1].connection);
    assert!(!format!("{requests:?}").contains(&client.bearer));
}

#[test]
fn waiting_in_vain_says_what_was_seen() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    client.get("/jobs?cluster=c1");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        testbed.result_of(&id, Duration::from_millis(50));
    }));
    let text = panic.unwrap_err().downcast::<String>().unwrap();
    for part in [format!("the result of {id}"), "offered 1, acked 0".to_owned(), "GET /api/agent/jobs".to_owned()] {
        assert!(text.contains(&part), "{text}");
    }
}

#[test]
fn traffic_is_counted_as_it_goes_over_the_wire() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let client = Client::of(&testbed);
    client.get("/jobs?cluster=c1&wait=0");
    let first = testbed.wait_for("an answer", SOON, |state| (state.counts.bytes_sent > 0).then_some(state.counts));
    testbed.raw_answer(vec![b' '; 10_000]);
    client.get("/jobs?cluster=c1&wait=0");
    // What was written is counted only then, and may have been read by that time.
    let second = testbed.wait_for("ten kilobytes", SOON, |state| {
        let sent = state.counts.bytes_sent - first.bytes_sent;
        (sent >= 10_000).then_some(state.counts)
    });
    assert!(second.bytes_sent - first.bytes_sent < 11_000);
    assert_eq!(second.bytes_received, 2 * first.bytes_received);
}

#[test]
fn a_proxy_tunnels_asks_and_refuses() {
    let testbed = Testbed::start();
    let proxy = Proxy::start();
    let poll = |url: &str| {
        let setting = ProxySetting::parse(url, None).unwrap();
        let client = Client::through(&testbed, testbed.issue_bearer("c1"), setting);
        client.try_get("/jobs?cluster=c1&wait=0").map(|answer| answer.status)
    };
    assert_eq!(poll(&proxy.url()).unwrap(), 200);
    let server = testbed.endpoint().replace("https://", "");
    assert_eq!(proxy.tunnels(), [server.as_str()]);

    proxy.ask_for("Basic dXNlcjpwYXNz");
    assert!(matches!(poll(&proxy.url()), Err(NetError::Proxy(_))));
    assert_eq!(poll(&proxy.url().replace("://", "://user:pass@")).unwrap(), 200);
    proxy.refuse(Some(403));
    assert!(matches!(poll(&proxy.url().replace("://", "://user:pass@")), Err(NetError::Proxy(_))));
    assert_eq!(proxy.tunnels().len(), 2);
    assert_eq!(proxy.requests().len(), 4);
    assert_eq!(proxy.requests()[0], format!("CONNECT {server} HTTP/1.1"));
}
