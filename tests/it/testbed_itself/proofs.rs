//! MACs and proofs of possession: what is right is taken once, and nothing else is.

use pullet::clock::unix_seconds;
use pullet::trust::identity::NodeKeys;
use pullet::trust::mac::{Covered, MacKey};
use pullet::trust::proof::Claim;
use serde_json::{Value, json};

use super::{Client, Reply};
use crate::testbed::{MacRule, Proofs, Testbed};

const ROTATE: &str = "/credentials/rotate";
const PATH: &str = "/api/agent/credentials/rotate";

fn post(client: &Client, headers: &[(&'static str, &str)], body: &str) -> Reply {
    let mut request = client.request("POST", ROTATE, body.as_bytes());
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    client.send(request).unwrap()
}

fn mac(key: &MacKey, n: u64) -> String {
    key.header(&Covered { method: "POST", path: PATH, at: unix_seconds(), n, body: b"{}" })
}

#[test]
fn a_mac_is_read_strictly_and_taken_once() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.mac = MacRule::V1);
    let client = Client::of(&testbed);
    let key = MacKey::derived("c1", &client.bearer).unwrap();
    let good = mac(&key, 1);
    let covered = Covered { method: "POST", path: PATH, at: unix_seconds(), n: 2, body: b"{}" };
    let early = key.header(&Covered { at: unix_seconds() - 301, ..covered });
    for wrong in [
        String::new(),
        "v1".to_owned(),
        good.replacen("v1", "v2", 1),
        good.replacen("v1", "v3", 1),
        good.replacen("kid=", "kid=0", 1),
        good.replacen(";n=1", ";n=01", 1),
        good.replacen(";n=1", ";n=2", 1),
        format!("{good};x=1"),
        good[..good.len() - 1].to_owned(),
        mac(&MacKey::derived("c2", &client.bearer).unwrap(), 1),
        mac(&MacKey::given(&"A".repeat(43)).unwrap(), 1),
        key.header(&Covered { path: "/api/agent/events", ..covered }),
        key.header(&Covered { body: b"", ..covered }),
        early,
    ] {
        let answer = post(&client, &[("x-vworkspace-mac", &wrong)], "{}");
        assert_eq!((answer.status, answer.error().as_str()), (401, "InvalidMac"), "{wrong}");
    }
    assert_eq!(post(&client, &[], "{}").error(), "InvalidMac", "it is missing");
    assert_eq!(post(&client, &[("x-vworkspace-mac", &good)], "{} ").error(), "InvalidMac", "another body");
    assert_eq!(post(&client, &[("x-vworkspace-mac", &good), ("x-vworkspace-mac", &good)], "{}").error(), "Invalid");
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200, "no MAC for what is no post");
    assert!(testbed.violations().len() >= 16, "an agent never sends a wrong one");
    assert_eq!(post(&client, &[("x-vworkspace-mac", &good)], "{}").status, 200);
    assert_eq!(post(&client, &[("x-vworkspace-mac", &good)], "{}").error(), "InvalidMac", "a counter comes once");
}

#[test]
fn a_mac_key_is_given_with_each_bearer_and_wanted_from_then_on() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.mac = MacRule::V2);
    let token = testbed.issue_token(Some("c1"));
    let client = Client::with_bearer(&testbed, token.clone());
    let answer = client.post("/register", &json!({"registrationToken": token})).json();
    let bearer = answer["token"].as_str().unwrap().to_owned();
    let key = MacKey::given(answer["macKey"].as_str().unwrap()).unwrap();
    let client = Client::with_bearer(&testbed, bearer.clone());
    let v1 = mac(&MacKey::derived("c1", &bearer).unwrap(), 1);
    assert_eq!(post(&client, &[("x-vworkspace-mac", &v1)], "{}").error(), "InvalidMac");
    let answer = post(&client, &[("x-vworkspace-mac", &mac(&key, 1))], "{}");
    assert_eq!(answer.status, 200);
    assert_ne!(MacKey::given(answer.json()["macKey"].as_str().unwrap()).unwrap().to_text(), key.to_text());
}

#[test]
fn a_bearer_that_has_ended_rotates_with_a_proof_and_with_nothing_else() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.proofs = Proofs::Taken);
    let text = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    let keys = NodeKeys::parse(text, text, None).unwrap();
    let others = NodeKeys::parse(&"A".repeat(43), text, None).unwrap();
    let token = testbed.issue_token(Some("c1"));
    let client = Client::with_bearer(&testbed, token.clone());
    let identity: Value = serde_json::from_str(&keys.identity_jwk().unwrap()).unwrap();
    let answer = client.post("/register", &json!({"registrationToken": token, "identityKey": identity})).json();
    let bearer = answer["token"].as_str().unwrap().to_owned();
    let client = Client::with_bearer(&testbed, bearer.clone());
    testbed.revoke("c1");

    let claim =
        Claim { method: "POST", path: PATH, cluster: "c1", bearer: &bearer, iat: unix_seconds(), nonce: &[7; 16] };
    let signer = keys.signer().unwrap();
    let good = claim.sign(&signer);
    for wrong in [
        String::new(),
        "a.b.c".to_owned(),
        good[..good.len() - 1].to_owned(),
        good.replacen('.', "", 1),
        claim.sign(&others.signer().unwrap()),
        Claim { method: "GET", ..claim }.sign(&signer),
        Claim { path: "/api/agent/events", ..claim }.sign(&signer),
        Claim { cluster: "c2", ..claim }.sign(&signer),
        Claim { bearer: "another", ..claim }.sign(&signer),
        Claim { iat: unix_seconds() - 301, ..claim }.sign(&signer),
        Claim { nonce: b"short", ..claim }.sign(&signer),
    ] {
        let answer = post(&client, &[("x-vworkspace-proof", &wrong)], "{}");
        assert_eq!((answer.status, answer.error().as_str()), (401, "InvalidProof"), "{wrong}");
    }
    assert_eq!(post(&client, &[], "{}").error(), "Unauthenticated");
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 401, "it is for a rotation");
    assert_eq!(post(&client, &[("x-vworkspace-proof", &good)], "{}").status, 200);
    assert_eq!(post(&client, &[("x-vworkspace-proof", &good)], "{}").error(), "InvalidProof", "a nonce comes once");
    testbed.behave(|behaviour| behaviour.proofs = Proofs::Ignored);
    let again = Claim { nonce: &[8; 16], ..claim }.sign(&signer);
    assert_eq!(post(&client, &[("x-vworkspace-proof", &again)], "{}").error(), "Unauthenticated");
}
