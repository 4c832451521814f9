//! The testbed tested: a server that is less strict than it says would prove nothing.

mod credentials;
mod faults;
mod form;
mod line;
mod polls;
mod proofs;
mod reports;

use std::time::Duration;

use http::Request;
use pullet::metrics::Meter;
use pullet::net::tls::{Roots, client_config};
use pullet::net::{Line, NetError, Patience, PlainHttp, Profile, ProxySetting};
use serde_json::{Value, json};

use crate::testbed::job::{config_map, timestamp};
use crate::testbed::{MEDIA_TYPE, Testbed};

const SOON: Duration = Duration::from_secs(20);

/// A client that says what it is told to say, right or wrong.
struct Client {
    line: Line,
    endpoint: String,
    bearer: String,
}

/// An answer, taken apart.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Client {
    /// A client with a bearer of cluster `c1`.
    fn of(testbed: &Testbed) -> Self {
        Self::with_bearer(testbed, testbed.issue_bearer("c1"))
    }

    fn with_bearer(testbed: &Testbed, bearer: String) -> Self {
        Self::through(testbed, bearer, ProxySetting::Direct)
    }

    fn through(testbed: &Testbed, bearer: String, proxy: ProxySetting) -> Self {
        let mut roots = Roots::none();
        roots.add_pem(testbed.ca_pem().as_bytes(), &testbed.ca_file()).unwrap();
        let tls = client_config(roots, None).unwrap();
        let line =
            Line::new(Profile { tls: tls.into(), proxy, plain_http: PlainHttp::Loopback, meter: Meter::default() });
        Self { line, endpoint: testbed.endpoint(), bearer }
    }

    /// A request with the headers that the contract asks for.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> Request<Vec<u8>> {
        let mut request = Request::new(body.to_vec());
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = format!("{}/api/agent{path}", self.endpoint).parse().unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {}", self.bearer).parse().unwrap());
        headers.insert("accept", MEDIA_TYPE.parse().unwrap());
        if !body.is_empty() {
            headers.insert("content-type", MEDIA_TYPE.parse().unwrap());
        }
        request
    }

    fn send(&self, request: Request<Vec<u8>>) -> Result<Reply, NetError> {
        self.send_within(request, Duration::from_secs(25))
    }

    fn send_within(&self, request: Request<Vec<u8>>, patience: Duration) -> Result<Reply, NetError> {
        let answer = self.line.run(request, Patience::Answer(patience))?;
        let (head, body) = answer.into_parts();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.read_all()? })
    }

    fn get(&self, path: &str) -> Reply {
        self.send(self.request("GET", path, b"")).unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request("POST", path, body.to_string().as_bytes())).unwrap()
    }

    fn try_get(&self, path: &str) -> Result<Reply, NetError> {
        self.send(self.request("GET", path, b""))
    }

    fn post_empty(&self, path: &str) -> Reply {
        self.send(self.request("POST", path, b"")).unwrap()
    }
}

impl Reply {
    /// The error body of a refusal, checked for its members.
    fn error(&self) -> String {
        let body = self.json();
        assert_eq!(self.headers["content-type"], MEDIA_TYPE);
        for member in ["error", "message", "requestId"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        }
        body["error"].as_str().unwrap().to_owned()
    }

    fn jobs(&self) -> Vec<Value> {
        self.json()["jobs"].as_array().unwrap().clone()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[test]
fn a_job_goes_all_the_way() {
    let testbed = Testbed::start();
    let token = testbed.issue_token(None);
    let mut client = Client::with_bearer(&testbed, token.clone());
    let answer = client.post("/register", &json!({"registrationToken": token, "clusterId": "c1"}));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], MEDIA_TYPE);
    assert_eq!(answer.json()["clusterId"], "c1");
    answer.json()["token"].as_str().unwrap().clone_into(&mut client.bearer);

    let id = testbed.apply("c1", config_map("n", "a", "x"));
    let jobs = client.get("/jobs?cluster=c1&wait=5").json();
    assert_eq!(jobs["jobs"][0]["id"], *id);
    assert_eq!(client.post_empty(&format!("/jobs/{id}/ack")).status, 204);
    let result = json!({"outcome": "succeeded", "timestamp": timestamp(0)});
    assert_eq!(client.post(&format!("/jobs/{id}/result"), &result).status, 204);
    assert_eq!(testbed.result(&id).unwrap(), result);
    assert_eq!(testbed.violations(), Vec::<String>::new());
    assert_eq!(testbed.counts().connections, 1);
    assert_eq!(testbed.counts().handshakes, 1);
}
