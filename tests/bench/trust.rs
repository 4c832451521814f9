//! What it costs to believe a job: its signature and its decryption, by the size of its payload, beside a round trip.
//!
//! Measured on the library as the tests are built, which optimises less than the release: the figures are upper bounds.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pullet::trust::envelope::{PayloadKey, PayloadKeys, encrypt};
use pullet::trust::keyring::{Key, Keyring, Use};
use pullet::trust::replay::TrustState;
use pullet::trust::sign::{JobHeader, SigningKey};
use pullet::trust::signature::{Now, Outer};
use pullet::trust::{Context, Signatures, verify};
use ring::rand::SystemRandom;

use super::{Figure, middle, milliseconds};

const ROUNDS: usize = 50;

pub(super) fn figures() -> Vec<Figure> {
    let mut figures: Vec<Figure> = [
        (1_000, "signature of a job: 1 kB", "signature and decryption of a job: 1 kB"),
        (16_000, "signature of a job: 16 kB", "signature and decryption of a job: 16 kB"),
        (180_000, "signature of a job: 180 kB", "signature and decryption of a job: 180 kB"),
    ]
    .into_iter()
    .flat_map(|(bytes, signed, encrypted)| {
        let (open, closed) = believe(bytes);
        let figure = |what, time| Figure { what, value: milliseconds(time), promise: "–", holds: None };
        [figure(signed, open), figure(encrypted, closed)]
    })
    .collect();
    let what = "a round trip of one byte over the loopback";
    figures.push(Figure { what, value: milliseconds(round_trip()), promise: "–", holds: None });
    figures
}

/// The time for a signed job, and for one that is encrypted as well.
fn believe(bytes: usize) -> (Duration, Duration) {
    let (root, owner) = (SigningKey::from_seed(&[1; 32]).unwrap(), SigningKey::from_seed(&[2; 32]).unwrap());
    let keys = [Key::new(*root.public(), Use::Root, None, None), Key::new(*owner.public(), Use::Job, None, None)];
    let ring = Keyring::pin(&[root.sign_keyring(1, 1, &keys)]).unwrap();
    let payload_keys = PayloadKeys { present: PayloadKey::from_bytes(&[3; 32]), previous: None };
    let state = TrustState::default().pin(&ring).unwrap();
    let context = Context {
        signatures: Signatures::Require,
        keyring: Some(&ring),
        payload_keys: Some(&payload_keys),
        cluster: "c",
        now: Now { seconds: 1_800_000_000, confirmed: true },
        known: None,
    };
    // As a manifest is: many short members.
    let mut members: Vec<String> = Vec::new();
    let mut length = 0;
    while length < bytes {
        let member =
            format!(r#""name-{}":"a value of some length, as one has them {}""#, members.len(), "x".repeat(60));
        length += member.len() + 1;
        members.push(member);
    }
    let payload = format!("{{{}}}", members.join(","));
    let sealed = encrypt(payload_keys.present.public(), payload.as_bytes(), &SystemRandom::new()).unwrap();
    let time = |payload: Option<&str>, encrypted_payload: Option<&str>| {
        let (epoch, cluster, id, kind, idempotency_key) = (1, "c", "j", "apply", "");
        let (seq, iat, exp) = (1, 1_700_000_000, 2_000_000_000);
        let header = JobHeader { epoch, cluster, id, kind, seq, iat, exp, idempotency_key, encrypted_payload };
        let signature = owner.sign_job(&header, payload.unwrap_or("null")).unwrap();
        let expires_at = Some(exp);
        let signature = Some(signature.as_str());
        let job = Outer { id, kind, expires_at, idempotency_key, payload, encrypted_payload, signature };
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                verify(&job, &context, &state).unwrap();
                started.elapsed()
            })
            .collect();
        middle(&mut times)
    };
    (time(Some(&payload), None), time(None, Some(&sealed)))
}

fn round_trip() -> Duration {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut byte = [0];
        while peer.read(&mut byte).is_ok_and(|count| count == 1) {
            peer.write_all(&byte).unwrap();
        }
    });
    let mut line = TcpStream::connect(address).unwrap();
    line.set_nodelay(true).unwrap();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            line.write_all(&[1]).unwrap();
            line.read_exact(&mut [0]).unwrap();
            started.elapsed()
        })
        .collect();
    drop(line);
    echo.join().unwrap();
    middle(&mut times)
}
