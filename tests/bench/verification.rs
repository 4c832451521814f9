//! What the signature and the encryption of a job cost, by the size of its payload, beside what the network costs.
//!
//! `cargo run --release --example verification`; `tests/run --bench` does it too. Nothing is judged: the times are
//! those of the machine, and what is to be seen is how they grow and how they compare.

#![allow(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it measures, prints a table, and stops where it cannot go on"
)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pullet::trust::canonical::{Caps, canonical};
use pullet::trust::envelope::{PayloadKey, PayloadKeys, encrypt};
use pullet::trust::keyring::{Key, Keyring, Use};
use pullet::trust::replay::TrustState;
use pullet::trust::sign::{JobHeader, SigningKey};
use pullet::trust::signature::{Now, Outer};
use pullet::trust::{Context, Signatures, verify};
use ring::rand::SystemRandom;

const NOW: i64 = 1_800_000_000;

/// The last one is as large as an encrypted job can be: base64 takes a quarter of 256 KiB.
const SIZES: [usize; 5] = [200, 1_000, 10_000, 60_000, 180_000];

fn main() {
    println!("| payload | canonical form | open, signed | encrypted, signed | of that per kB |");
    println!("|---|---|---|---|---|");
    let mut first = None;
    let mut last = None;
    for size in SIZES {
        let payload = payload(size);
        let form = median(|| {
            black_box(canonical(payload.as_bytes(), Caps::JOB).unwrap());
        });
        let [open, sealed] = [false, true].map(|encrypted| verification(&payload, encrypted));
        let per_kb = sealed.as_secs_f64() * 1e6 / (payload.len() as f64 / 1000.0);
        println!("| {} B | {} | {} | {} | {per_kb:.1} µs |", payload.len(), micros(form), micros(open), micros(sealed));
        first.get_or_insert((payload.len(), open, sealed));
        last = Some((payload.len(), open, sealed));
    }
    let ((small, open, sealed), (large, open_large, sealed_large)) = (first.unwrap(), last.unwrap());
    let times = |a: Duration, b: Duration| b.as_secs_f64() / a.as_secs_f64();
    println!(
        "\nA payload {:.0} times as large takes {:.1} times as long open, {:.1} times encrypted.\n",
        large as f64 / small as f64,
        times(open, open_large),
        times(sealed, sealed_large)
    );
    let trip = round_trip();
    let handshake = median(tls_handshake());
    println!("| beside it | |\n|---|---|");
    println!("| a round trip over TCP on the loopback | {} |", micros(trip));
    println!("| a TLS 1.3 handshake, both sides, without a network | {} |", micros(handshake));
    println!("| a round trip over a mobile network | 30,000 µs and more |");
}

/// A ConfigMap as one is applied: names, short texts, out of order.
fn payload(size: usize) -> String {
    let member = |number: u32| format!("\"key-{:05}\": \"value \\u00e9 {number}\"", number * 7919 % 10_007);
    let mut members = vec![member(0)];
    let mut length = 120;
    while length < size {
        let next = member(u32::try_from(members.len()).unwrap());
        length += next.len() + 2;
        members.push(next);
    }
    let data = members.join(", ");
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"namespace":"shop","name":"settings"}},"data":{{{data}}}}}"#
    )
}

fn verification(payload: &str, encrypted: bool) -> Duration {
    let [root, signer] = [1, 2].map(|n| SigningKey::from_seed(&[n; 32]).unwrap());
    let key = |signer: &SigningKey, usage| Key::new(*signer.public(), usage, None, None);
    let keyring = Keyring::pin(&[root.sign_keyring(1, 1, &[key(&root, Use::Root), key(&signer, Use::Job)])]).unwrap();
    let keys = PayloadKeys { present: PayloadKey::from_bytes(&[3; 32]), previous: None };
    let sealed = encrypted.then(|| encrypt(keys.present.public(), payload.as_bytes(), &SystemRandom::new()).unwrap());
    let header = JobHeader {
        epoch: 1,
        cluster: "clinic-7",
        id: "job-1",
        kind: "apply",
        seq: 1,
        iat: NOW,
        exp: NOW + 60,
        idempotency_key: "key",
        encrypted_payload: sealed.as_deref(),
    };
    let signature = signer.sign_job(&header, if encrypted { "null" } else { payload }).unwrap();
    let job = Outer {
        id: "job-1",
        kind: "apply",
        expires_at: Some(NOW + 60),
        idempotency_key: "key",
        payload: (!encrypted).then_some(payload),
        encrypted_payload: sealed.as_deref(),
        signature: Some(&signature),
    };
    let context = Context {
        signatures: Signatures::Require,
        keyring: Some(&keyring),
        payload_keys: Some(&keys),
        cluster: "clinic-7",
        now: Now { seconds: NOW, confirmed: true },
        known: None,
    };
    let state = TrustState::default().pin(&keyring).unwrap();
    median(|| {
        black_box(verify(&job, &context, &state).unwrap());
    })
}

fn round_trip() -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let time = median(|| {
        stream.write_all(&[1]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    });
    drop(stream);
    echo.join().unwrap();
    time
}

fn tls_handshake() -> impl FnMut() {
    let made = rcgen::generate_simple_self_signed(["pullet.test".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = [&rustls::version::TLS13];
    let server =
        rustls::ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions).unwrap();
    let server = Arc::new(server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    let client = Arc::new(client);
    move || {
        let name = "pullet.test".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(client.clone(), name).unwrap();
        let mut server = rustls::ServerConnection::new(server.clone()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..301)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}
