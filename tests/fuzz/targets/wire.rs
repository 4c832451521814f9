//! What a hostile control plane answers, and the jobs in it.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use pullet::limits;
use pullet::link::backoff::retry_after;
use pullet::link::stream::{self, Arrival};
use pullet::link::{Bearer, Fault};
use pullet::net::Tls;
use pullet::net::renewal::TlsFiles;
use pullet::protocol::{ClusterId, CredentialAnswer, ErrorBody, GroupKind, Instruction, Job};
use pullet::trust::client_key::ClientKey;
use pullet::trust::keyring::Keyring;
use pullet::trust::policy::{NamespacePattern, Policy, Provenance};
use ring::rand::SystemRandom;

pub(crate) fn stream(data: &[u8]) {
    let answer = stream::read(data);
    let mut held = 0;
    for arrival in &answer.jobs {
        if let Arrival::Job(text) = arrival {
            assert!(text.len() <= limits::JOB_BYTES);
            held += text.len();
            check(text);
        }
    }
    assert!(held <= limits::ANSWER_BYTES, "{held} bytes of jobs at once");
}

pub(crate) fn job(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
}

/// As an agent takes a job: read it, see what it asks for, ask the policy, write what would be applied.
fn check(text: &str) {
    let job = match Job::parse(text) {
        Ok(job) => job,
        Err((_, error)) => return assert!(error.to_string().len() < limits::RECORD_BYTES),
    };
    assert!(job.id.as_str().len() <= limits::JOB_ID_BYTES);
    let instruction = match job.instruction() {
        Ok(instruction) => instruction,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for policy in [
        Policy::new(vec![], vec![]),
        Policy::new(
            vec![GroupKind::parse("apps/Deployment").unwrap()],
            vec![NamespacePattern::parse("clinic-*").unwrap()],
        ),
    ] {
        if let Err(refusal) = policy.check(&instruction, Provenance::default()) {
            assert!(!refusal.to_string().is_empty());
        }
    }
    if let Instruction::Apply(manifest) = &instruction {
        let written = manifest.write(&[("a", "b")]);
        let object: serde_json::Value = serde_json::from_slice(&written).expect("what is applied is JSON");
        assert_eq!(object["metadata"]["labels"]["a"], "b");
        assert_eq!(object["kind"], *manifest.kind);
    }
}

/// Made once: the authorities of the system are read from a file.
fn tls() -> &'static Tls {
    static TLS: LazyLock<Tls> = LazyLock::new(|| Tls::open(TlsFiles::default()).unwrap());
    &TLS
}

static KEY: LazyLock<ClientKey> = LazyLock::new(|| ClientKey::generate(&SystemRandom::new()).unwrap());

pub(crate) fn answer(data: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(data) {
        let told = Fault::Unauthorized(body).to_string();
        assert!(told.chars().count() < 1_000 && !told.chars().any(char::is_control), "{told:?}");
    }
    if let Ok(answer) = serde_json::from_slice::<CredentialAnswer>(data) {
        let _ = answer.cluster_id.as_deref().map(ClusterId::parse);
        let _ = Bearer::new(&answer.token, answer.expires_at);
        let _ = Keyring::pin(&answer.signing_keys);
        if let Some(pem) = &answer.ca_bundle {
            let _ = tls().with_given(pem.as_bytes());
        }
        if let Some(pem) = &answer.client_certificate {
            let _ = tls().with_issued(pem, KEY.pkcs8());
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert!(retry_after(text, now).is_none_or(|pause| pause <= limits::RETRY_AFTER_MAX));
    }
}
