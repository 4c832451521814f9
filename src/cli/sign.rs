//! `pullet key` and `pullet sign`: what an owner does with private keys, on a machine of the owner's. Only with the feature
//! `sign`; the agent of a node has none of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use zeroize::Zeroizing;

use super::{Failure, say};
use crate::clock;
use crate::limits;
use crate::link::Wanted;
use crate::link::secret_file::{self, Closed};
use crate::link::stream::{self, Arrival};
use crate::protocol::{ClusterId, Job, Timestamp};
use crate::trust::base64url;
use crate::trust::envelope::encrypt;
use crate::trust::key_id::KeyId;
use crate::trust::keyring::{Key, Keyring, Use};
use crate::trust::sign::{JobHeader, SigningKey};

/// What `pullet help` adds.
pub(super) const OVERVIEW: &str = "\nFor the owner of nodes, on a machine that is none of them:\n  \
    key new   make a key that signs jobs or keyrings\n  \
    sign      sign a keyring, a job or a CA bundle: pullet sign --help\n";

const HELP: &str = "\
Usage: pullet key new --out FILE
       pullet sign keyring --key ROOT --version N --epoch E --job-key X… [--root-key X…] [--after FILE]
                           [--not-before X=TIME…] [--not-after X=TIME…]
       pullet sign job --key FILE --cluster ID --epoch E --seq N [--encrypt-to JWK-FILE] JOB.json
       pullet sign bundle --key ROOT CA.pem

key new       Makes an Ed25519 key. FILE is PKCS#8 in PEM (RFC 8410), mode 0600; one that is there is never
              overwritten. Prints the key's name (kid), its public half (x), and the fingerprint that a node pins.
sign keyring  Prints a keyring, one line: a line of the file that a node is given with --keyring. Version 1 is the
              first; each later one has the next version, is signed by a root key of the one before, and is checked
              against it: --after FILE has those before it, oldest first. X is the x of a key. Without --root-key the
              signing key is the root key of the new ring; with it, the ring has those that are given. The job key
              X signs from --not-before X=TIME to --not-after X=TIME, both included; without them always. TIME is
              whole Unix seconds, or as 2026-12-31T12:00:00Z. Root keys do not expire.
sign job      Prints the job with its signature. The job needs an id, a kind and an expiresAt. Each key counts its
              jobs within an epoch: --seq, from 1, a node takes each number once. --encrypt-to has the publicKey of the
              node's registration, a JWK; the payload goes encrypted. JOB.json may be - for standard input.
sign bundle   Prints a CA bundle that is signed by a root key, one line.

A key file is PKCS#8 in PEM, or a line of base64url with the 32 bytes of the seed. It has to be closed to group and
others.
Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Does what the arguments say; none when they are for somebody else.
pub(super) fn main(arguments: &[String]) -> Option<Result<(), Failure>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ours = |word: &str| matches!(word, "key" | "sign");
    let is_help = |rest: &[&str]| rest.iter().any(|word| matches!(*word, "--help" | "-h"));
    if let ["help", word, ..] = words.as_slice()
        && ours(word)
    {
        say(HELP);
        return Some(Ok(()));
    }
    match words.as_slice() {
        [word, rest @ ..] if ours(word) && is_help(rest) => {
            say(HELP);
            Some(Ok(()))
        }
        ["key", "new", rest @ ..] => Some(new_key(rest)),
        ["sign", "keyring", rest @ ..] => Some(sign_keyring(rest)),
        ["sign", "job", rest @ ..] => Some(sign_job(rest)),
        ["sign", "bundle", rest @ ..] => Some(sign_bundle(rest)),
        [word, ..] if ours(word) => {
            Some(Err(Failure::usage(format!("what to {word} is missing; see pullet {word} --help"))))
        }
        _ => None,
    }
}

/// The flags of a command, each with its values, and what is no flag.
struct Flags<'a> {
    values: BTreeMap<&'a str, Vec<&'a str>>,
    operands: Vec<&'a str>,
}

impl<'a> Flags<'a> {
    fn read(words: &[&'a str], known: &[&'static str]) -> Result<Self, Failure> {
        let mut flags = Self { values: BTreeMap::new(), operands: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix("--") else {
                flags.operands.push(word);
                continue;
            };
            let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
            if !known.contains(&name) {
                return Err(Failure::usage(format!("there is no flag --{name:.64}; --help lists them")));
            }
            let value = value.or_else(|| words.next().copied());
            let value = value.ok_or_else(|| Failure::usage(format!("--{name} needs a value")))?;
            flags.values.entry(name).or_default().push(value);
        }
        Ok(flags)
    }

    fn all(&self, name: &str) -> &[&'a str] {
        self.values.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn optional(&self, name: &str) -> Result<Option<&'a str>, Failure> {
        match self.all(name) {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(Failure::usage(format!("--{name} is given more than once"))),
        }
    }

    fn required(&self, name: &str) -> Result<&'a str, Failure> {
        self.optional(name)?.ok_or_else(|| Failure::usage(format!("--{name} is missing; --help shows how it goes")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Failure> {
        self.required(name)?.parse().map_err(|_| Failure::usage(format!("--{name} takes a whole number")))
    }

    fn operand(&self, what: &str) -> Result<&'a str, Failure> {
        match self.operands.as_slice() {
            [operand] => Ok(operand),
            [] => Err(Failure::usage(format!("{what} is missing"))),
            [_, surplus, ..] => Err(Failure::usage(format!("{surplus:?} does not belong here"))),
        }
    }

    fn no_operand(&self) -> Result<(), Failure> {
        match self.operands.first() {
            Some(surplus) => Err(Failure::usage(format!("{surplus:?} does not belong here"))),
            None => Ok(()),
        }
    }
}

/// What stands in a PKCS#8 document before the 32 bytes of an Ed25519 key (RFC 8410, section 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

fn new_key(words: &[&str]) -> Result<(), Failure> {
    let flags = Flags::read(words, &["out"])?;
    flags.no_operand()?;
    let path = flags.required("out")?;
    let (key, seed) = SigningKey::generate(&SystemRandom::new()).map_err(Failure::failed)?;
    let der = Zeroizing::new([PKCS8.as_slice(), seed.as_slice()].concat());
    let text =
        Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", Zeroizing::new(STANDARD.encode(der.as_slice())).as_str()));
    let written = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::failed(format!("{path} is there already, and a key is never overwritten; name another file"))
        }
        _ => Failure::failed(format!("{path} cannot be written: {error}")),
    })?;
    say(&format!("kid          {}\nx            {}", key.kid(), base64url::encode(key.public())));
    say(&format!("fingerprint  {}", key.kid()));
    Ok(())
}

/// A key file: PKCS#8 in PEM, or the seed in base64url.
fn read_key(path: &str) -> Result<SigningKey, Failure> {
    let file = Path::new(path);
    let text = secret_file::open(file, Closed::ToOthers)
        .and_then(|opened| secret_file::read_text(opened, file))
        .map_err(Failure::failed)?;
    let none = || {
        Failure::failed(format!("{path} is no Ed25519 private key: it takes PKCS#8 in PEM, or the seed in base64url"))
    };
    let body = match text.trim().strip_prefix(BEGIN) {
        None => {
            let seed = base64url::decode_array(text.trim()).map(Zeroizing::new).ok_or_else(none)?;
            return SigningKey::from_seed(&seed).map_err(|_| none());
        }
        Some(rest) => rest.trim_end().strip_suffix(END).ok_or_else(none)?,
    };
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| none())?);
    SigningKey::from_pkcs8(&der).map_err(|_| none())
}

fn public_key(text: &str) -> Result<[u8; 32], Failure> {
    base64url::decode_array(text)
        .ok_or_else(|| Failure::usage(format!("{text:.64?} is no public key: it is the x that pullet key new prints")))
}

/// One bound in time of each job key that has one.
fn bounds<'a>(flags: &Flags<'a>, name: &str) -> Result<BTreeMap<&'a str, i64>, Failure> {
    let mut bounds = BTreeMap::new();
    for text in flags.all(name) {
        let usage = |fault: &str| Failure::usage(format!("--{name} {text:.96}: {fault}"));
        let (key, time) = text.split_once('=').ok_or_else(|| usage("it takes X=TIME, with the x of a job key"))?;
        if !flags.all("job-key").contains(&key) {
            return Err(usage("no --job-key has this x; root keys do not expire"));
        }
        let seconds = time.parse().ok().or_else(|| Timestamp::parse(time).ok().map(Timestamp::unix_seconds));
        let seconds = seconds.ok_or_else(|| usage("the time is neither whole Unix seconds nor RFC 3339"))?;
        if bounds.insert(key, seconds).is_some() {
            return Err(usage("this key has one already"));
        }
    }
    Ok(bounds)
}

fn sign_keyring(words: &[&str]) -> Result<(), Failure> {
    let flags =
        Flags::read(words, &["key", "version", "epoch", "job-key", "root-key", "after", "not-before", "not-after"])?;
    flags.no_operand()?;
    let (version, epoch): (u32, u64) = (flags.number("version")?, flags.number("epoch")?);
    if flags.all("job-key").is_empty() {
        return Err(Failure::usage("--job-key is missing: without one no job could be signed"));
    }
    let before = match flags.optional("after")? {
        Some(file) => match Wanted::read(Path::new(file)).map_err(Failure::failed)? {
            Wanted::Chain(chain) => Some(Keyring::pin(&chain).map_err(Failure::failed)?),
            Wanted::Fingerprint(_) => {
                return Err(Failure::usage(format!(
                    "{file} has a fingerprint; --after takes the keyrings before this one"
                )));
            }
        },
        None => None,
    };
    let signer = read_key(flags.required("key")?)?;
    let mut keys = Vec::new();
    for text in flags.all("root-key") {
        keys.push(Key::new(public_key(text)?, Use::Root, None, None));
    }
    if keys.is_empty() {
        keys.push(Key::new(*signer.public(), Use::Root, None, None));
    }
    let (from, until) = (bounds(&flags, "not-before")?, bounds(&flags, "not-after")?);
    for text in flags.all("job-key") {
        let (from, until) = (from.get(text).copied(), until.get(text).copied());
        if matches!((from, until), (Some(from), Some(until)) if from > until) {
            return Err(Failure::usage(format!("--not-before of {text:.64} lies after its --not-after")));
        }
        keys.push(Key::new(public_key(text)?, Use::Job, from, until));
    }
    let ring = signer.sign_keyring(version, epoch, &keys);
    // As a node will look at it.
    match &before {
        Some(before) if before.version().checked_add(1) != Some(version) => {
            return Err(Failure::usage(format!(
                "--version is {version}, and the last keyring of --after has {}",
                before.version()
            )));
        }
        Some(before) => before.update(&[&ring]).map_err(Failure::failed)?,
        None => Keyring::pin(&[&ring]).map_err(Failure::failed)?,
    };
    say(&ring);
    Ok(())
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: Option<String>,
}

/// The node's key that payloads are encrypted to.
fn read_recipient(path: &str) -> Result<[u8; 32], Failure> {
    let text = read(path, limits::SECRET_FILE_BYTES)?;
    let none = || Failure::failed(format!("{path} is no JWK of an X25519 key, as a node sends it when it registers"));
    let jwk: Jwk = serde_json::from_slice(&text).map_err(|_| none())?;
    let x = base64url::decode_array(&jwk.x).ok_or_else(none)?;
    let is_named = jwk.kid.is_none_or(|kid| KeyId::parse(&kid) == Some(KeyId::of_x25519(&x)));
    if jwk.kty == "OKP" && jwk.crv == "X25519" && is_named { Ok(x) } else { Err(none()) }
}

fn sign_job(words: &[&str]) -> Result<(), Failure> {
    let flags = Flags::read(words, &["key", "cluster", "epoch", "seq", "encrypt-to"])?;
    let path = flags.operand("the file with the job")?;
    let cluster = ClusterId::parse(flags.required("cluster")?).map_err(Failure::usage)?;
    let (epoch, seq): (u64, u64) = (flags.number("epoch")?, flags.number("seq")?);
    let recipient = flags.optional("encrypt-to")?.map(read_recipient).transpose()?;
    let key = read_key(flags.required("key")?)?;
    let text = Zeroizing::new(read(path, limits::CHECK_FILE_BYTES as u64)?);
    let text = match stream::read_one(text.as_slice()) {
        Some(Arrival::Job(text)) => text,
        Some(Arrival::Skipped { limit, .. }) => return Err(Failure::failed(format!("{path}: {limit}"))),
        None => return Err(Failure::failed(format!("{path} is not one job"))),
    };
    let job = Job::parse(&text).map_err(|(_, error)| Failure::failed(format!("{path}: {error}")))?;
    let exp = job.expires_at.map(Timestamp::unix_seconds);
    let exp = exp.ok_or_else(|| Failure::failed(format!("{path} has no expiresAt: a signature has an end")))?;
    let iat = clock::unix_seconds().cast_signed();
    if exp <= iat {
        return Err(Failure::failed(format!("{path} is expired already: give it a later expiresAt")));
    }
    let mut members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&text).map_err(|error| Failure::failed(format!("{path}: {error}")))?;
    let payload = job.payload.map_or("null", RawValue::get);
    let mut encrypted = job.encrypted_payload.as_deref().map(str::to_owned);
    if encrypted.is_some() && job.payload.is_some() {
        return Err(Failure::failed(format!("{path} has both a payload and an encryptedPayload")));
    }
    if let Some(recipient) = recipient {
        if encrypted.is_some() {
            return Err(Failure::failed(format!("{path} is encrypted already; leave --encrypt-to out")));
        }
        let sealed = encrypt(&recipient, payload.as_bytes(), &SystemRandom::new());
        let sealed = sealed.map_err(|_| Failure::failed("nothing can be encrypted to this key"))?;
        put(&mut members, "encryptedPayload", &sealed)?;
        put(&mut members, "payload", &())?;
        encrypted = Some(sealed);
    }
    let header = JobHeader {
        epoch,
        cluster: cluster.as_str(),
        id: job.id.as_str(),
        kind: &job.kind,
        seq,
        iat,
        exp,
        idempotency_key: &job.idempotency_key,
        encrypted_payload: encrypted.as_deref(),
    };
    let signature = key.sign_job(&header, if encrypted.is_some() { "null" } else { payload });
    put(&mut members, "signature", &signature.map_err(Failure::failed)?)?;
    say(&serde_json::to_string(&members).map_err(Failure::failed)?);
    Ok(())
}

fn put<T: serde::Serialize>(
    members: &mut BTreeMap<String, Box<RawValue>>,
    name: &str,
    value: &T,
) -> Result<(), Failure> {
    members.insert(name.to_owned(), to_raw_value(value).map_err(Failure::failed)?);
    Ok(())
}

fn sign_bundle(words: &[&str]) -> Result<(), Failure> {
    #[derive(serde::Serialize)]
    struct Bundle {
        pem: String,
    }
    let flags = Flags::read(words, &["key"])?;
    let path = flags.operand("the file with the CA certificates")?;
    let key = read_key(flags.required("key")?)?;
    let pem = String::from_utf8(read(path, limits::SECRET_FILE_BYTES)?).unwrap_or_default();
    if !pem.contains("-----BEGIN CERTIFICATE-----") || pem.contains("PRIVATE KEY") {
        return Err(Failure::failed(format!("{path} has to hold CA certificates in PEM, and nothing that is secret")));
    }
    say(&key.sign_compact("edge-ca+jws", &serde_json::to_string(&Bundle { pem }).map_err(Failure::failed)?));
    Ok(())
}

/// A file or standard input, up to a bound.
fn read(path: &str, bound: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let take = bound.saturating_add(1);
    let done = match path {
        "-" => io::stdin().take(take).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(take).read_to_end(&mut bytes)),
    };
    done.map_err(|error| Failure::failed(format!("{path} cannot be read: {error}")))?;
    if bytes.len() as u64 > bound {
        return Err(Failure::failed(format!("{path} is larger than {bound} bytes")));
    }
    Ok(bytes)
}
