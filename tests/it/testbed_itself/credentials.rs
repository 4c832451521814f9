//! Tokens, bearers, rotation.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Client;
use crate::testbed::{Behaviour, Options, Testbed};

#[test]
fn a_token_works_once_and_only_for_its_cluster() {
    let testbed = Testbed::start();
    let token = testbed.issue_token(Some("c1"));
    assert!(token.len() >= 32);
    let client = Client::with_bearer(&testbed, token.clone());
    let wish = |cluster: &str| json!({"registrationToken": token, "clusterId": cluster});

    let foreign = client.post("/register", &wish("c2"));
    assert_eq!((foreign.status, foreign.error().as_str()), (403, "WrongCluster"));
    let first = client.post("/register", &wish("c1"));
    assert_eq!(first.status, 200);
    assert!(first.json()["token"].as_str().unwrap().len() >= 32);
    let second = client.post("/register", &wish("c1"));
    assert_eq!((second.status, second.error().as_str()), (401, "InvalidToken"));

    let invented = Client::with_bearer(&testbed, "x".repeat(40));
    assert_eq!(invented.post("/register", &json!({"registrationToken": "x".repeat(40)})).status, 401);
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_token_without_a_cluster_gets_a_name_from_the_server() {
    let testbed = Testbed::start();
    let token = testbed.issue_token(None);
    let client = Client::with_bearer(&testbed, token.clone());
    let answer = client.post("/register", &json!({"registrationToken": token, "displayName": "Clinic"})).json();
    assert!(answer["clusterId"].as_str().unwrap().starts_with("cluster-"));
    assert!(answer.get("expiresAt").is_none());
}

#[test]
fn a_registration_is_read_strictly() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.additions = false);
    let token = testbed.issue_token(None);
    let client = Client::with_bearer(&testbed, token.clone());
    for (body, error) in [
        (json!({}), "Invalid"),
        (json!([]), "Invalid"),
        (json!({"registrationToken": "another"}), "Invalid"),
        (json!({"registrationToken": 7}), "Invalid"),
        (json!({"registrationToken": token, "clusterId": ""}), "Invalid"),
        (json!({"registrationToken": token, "clusterId": null}), "Invalid"),
        (json!({"registrationToken": token, "cluster": "c1"}), "UnknownField"),
        (json!({"registrationToken": token, "publicKey": {}}), "UnknownField"),
    ] {
        let answer = client.post("/register", &body);
        assert_eq!((answer.status, answer.error().as_str()), (400, error), "{body}");
    }
    assert_eq!(testbed.violations().len(), 7, "an agent may try whether a server knows an addition");
    testbed.behave(|behaviour| behaviour.additions = true);
    // RFC 8037, appendix A.2 and A.3.
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let kid = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    for (name, key) in [
        ("publicKey", json!({})),
        ("publicKey", json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})),
        ("identityKey", json!({"kty": "OKP", "crv": "Ed25519", "x": x})),
        ("identityKey", json!({"kty": "OKP", "crv": "Ed25519", "kid": x, "x": x})),
        ("identityKey", json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": &x[1..]})),
        ("identityKey", json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "d": x})),
        ("agent", json!({"version": "1"})),
    ] {
        let answer = client.post("/register", &json!({"registrationToken": token, name: key}));
        assert_eq!(answer.error(), "Invalid", "{name}");
    }
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
    assert_eq!(client.post("/register", &json!({"registrationToken": token, "identityKey": key})).status, 200);
}

#[test]
fn a_rotation_ends_the_old_bearer_after_the_overlap() {
    let overlap = Duration::from_secs(8);
    let behaviour = Behaviour { bearer_overlap: overlap, ..Behaviour::default() };
    let testbed = Testbed::with(Options { behaviour, ..Options::default() });
    let old = Client::of(&testbed);
    assert_eq!(old.post("/credentials/rotate", &json!({"a": 1})).error(), "UnknownField");
    assert_eq!(old.post_empty("/credentials/rotate").status, 400);
    let answer = old.post("/credentials/rotate", &json!({}));
    assert_eq!(answer.status, 200);
    let new = Client::with_bearer(&testbed, answer.json()["token"].as_str().unwrap().to_owned());
    let since = Instant::now();
    assert_eq!(new.get("/jobs?cluster=c1&wait=0").status, 200);
    assert_eq!(old.get("/jobs?cluster=c1&wait=0").status, 200);
    while old.get("/jobs?cluster=c1&wait=0").status == 200 {
        assert!(since.elapsed() < 3 * overlap);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(old.get("/jobs?cluster=c1&wait=0").status, 401);
    // The clock of the testbed began to run before ours.
    assert!(since.elapsed() > overlap / 2, "{:?}", since.elapsed());
    assert_eq!(old.get("/jobs?cluster=c1&wait=0").status, 401);
    assert_eq!(new.get("/jobs?cluster=c1&wait=0").status, 200);
}

#[test]
fn bearers_end_when_they_are_revoked_or_too_old() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
    testbed.revoke("c1");
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").error(), "Unauthenticated");

    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::ZERO));
    assert_eq!(Client::of(&testbed).get("/jobs?cluster=c1&wait=0").status, 401);
    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::from_hours(1)));
    let client = Client::of(&testbed);
    assert!(client.post("/credentials/rotate", &json!({})).json()["expiresAt"].is_string());
}
