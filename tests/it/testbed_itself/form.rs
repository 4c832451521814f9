//! What a request must look like.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{Client, SOON};
use crate::testbed::job::config_map;
use crate::testbed::{MEDIA_TYPE, Options, Testbed};

#[test]
fn headers_must_be_as_the_contract_says() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let status_of = |method: &str, path: &str, body: &[u8], change: &dyn Fn(&mut http::HeaderMap)| {
        let mut request = client.request(method, path, body);
        change(request.headers_mut());
        client.send(request).unwrap().status
    };
    let poll = "/jobs?cluster=c1&wait=0";
    assert_eq!(status_of("GET", poll, b"", &|_| ()), 200);
    for (name, value) in
        [("authorization", "Basic YTpi"), ("authorization", "Bearer "), ("authorization", "Bearer a b")]
    {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let status = status_of("GET", poll, b"", &|headers| drop(headers.insert(name, value.clone())));
        assert!(status == 401 || status == 400, "{value:?}: {status}");
    }
    assert_eq!(status_of("GET", poll, b"", &|headers| drop(headers.remove("authorization"))), 401);
    assert_eq!(
        status_of("GET", poll, b"", &|headers| assert!(headers.append("accept", MEDIA_TYPE.parse().unwrap()))),
        400
    );
    for accept in ["*/*", "application/json", "application/vnd.vworkspace.agent.v1+json; q=1"] {
        let status = status_of("GET", poll, b"", &|headers| drop(headers.insert("accept", accept.parse().unwrap())));
        assert_eq!(status, 400, "{accept}");
    }
    let typed = |headers: &mut http::HeaderMap| drop(headers.insert("content-type", MEDIA_TYPE.parse().unwrap()));
    assert_eq!(status_of("GET", poll, b"", &typed), 400);
    assert_eq!(status_of("POST", "/jobs/x/ack", b"", &typed), 400);
    assert_eq!(status_of("POST", "/jobs/x/ack", b"{}", &|_| ()), 400);
    assert_eq!(status_of("POST", "/events", b"", &|_| ()), 400);
    for content_type in ["application/json", "application/vnd.vworkspace.agent.v1+json; charset=utf-8"] {
        let status = status_of("POST", "/credentials/rotate", b"{}", &|headers| {
            headers.insert("content-type", content_type.parse().unwrap());
        });
        assert_eq!(status, 400, "{content_type}");
    }
}

#[test]
fn a_post_without_a_body_says_that_it_has_none() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    let bearer = testbed.issue_bearer("c1");
    let ack = |more: &str| {
        let head = format!(
            "POST /api/agent/jobs/{id}/ack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {bearer}\r\nAccept: {MEDIA_TYPE}\r\n{more}\r\n"
        );
        say(&testbed, head.as_bytes())
    };
    assert!(ack("").starts_with("HTTP/1.1 400 "));
    assert_eq!(testbed.acks(&id), 0);
    assert!(ack("Content-Length: 0\r\n").starts_with("HTTP/1.1 204 "));
    assert_eq!(testbed.acks(&id), 1);
}

#[test]
fn bytes_that_are_no_http_do_not_hurt() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    for bytes in [&b"\x16\x03\x01\x00\xa5"[..], b"GET\r\n\r\n", b"POST /x HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
        say(&testbed, bytes);
    }
    assert_eq!(Client::of(&testbed).get("/jobs?cluster=c1&wait=0").status, 200);
}

/// Says these bytes, then listens to the end.
fn say(testbed: &Testbed, bytes: &[u8]) -> String {
    let address = testbed.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn unknown_paths_methods_and_queries_are_refused() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let status = |method: &str, path: &str, body: &[u8]| {
        let answer = client.send(client.request(method, path, body)).unwrap();
        answer.error();
        answer.status
    };
    assert_eq!(status("GET", "/job?cluster=c1", b""), 404);
    assert_eq!(status("GET", "/jobs/?cluster=c1", b""), 404);
    assert_eq!(status("POST", "/jobs/a/b/ack", b""), 404);
    assert_eq!(status("POST", "/jobs?cluster=c1", b"{}"), 405);
    assert_eq!(status("GET", "/events", b""), 405);
    for query in ["", "?wait=1", "?cluster=c1&wait=301", "?cluster=c1&wait=1s", "?cluster=c1&x=1", "?cluster=c/1"] {
        assert_eq!(status("GET", &format!("/jobs{query}"), b""), 400, "{query}");
    }
    assert_eq!(status("POST", "/jobs/x/ack?cluster=c1", b""), 400);
    assert_eq!(status("POST", "/events?cluster=c1", b"{}"), 400);
    assert_eq!(status("GET", "/jobs?cluster=c2", b""), 403);
}

#[test]
fn a_base_path_and_trailing_slashes_are_the_clients_business() {
    let testbed = Testbed::with(Options { base: "/odoo".to_owned(), ..Options::default() });
    let mut client = Client::of(&testbed);
    assert!(testbed.endpoint().ends_with("/odoo"));
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
    client.endpoint.push('/');
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 404);
}

#[test]
fn a_body_beyond_a_megabyte_is_refused() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let answer = client.send(client.request("POST", "/events", &vec![b' '; 1024 * 1024 + 1]));
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 413));
    assert_eq!(testbed.violations().len(), 1);
}
