#![cfg(test)]

//! The official vectors (tests/vectors/SOURCES.md) and the examples of the RFCs, through our own functions.

use std::fs;

use serde_json::Value;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::base64url;
use super::canonical::{Caps, canonical};
use super::envelope::{PayloadKey, agree, open};
use super::jws::verify;
use super::key_id::KeyId;
use super::sign::SigningKey;

fn read(path: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/vectors/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex_array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

/// Each test of a file of Wycheproof with its group.
fn wycheproof(name: &str) -> Vec<(Value, Value)> {
    let file: Value = serde_json::from_slice(&read(&format!("wycheproof/{name}_test.json"))).unwrap();
    let mut tests = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        tests.extend(group["tests"].as_array().unwrap().iter().map(|test| (group.clone(), test.clone())));
    }
    assert_eq!(tests.len() as u64, file["numberOfTests"].as_u64().unwrap());
    tests
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

#[test]
fn the_canonical_form_is_that_of_the_author_of_the_rfc() {
    for name in ["arrays", "french", "structures", "unicode", "values", "weird"] {
        let form = canonical(&read(&format!("jcs/input/{name}.json")), Caps::JOB).unwrap();
        assert_eq!(form.as_slice(), read(&format!("jcs/output/{name}.json")), "{name}");
        let expected: String = String::from_utf8(read(&format!("jcs/outhex/{name}.txt"))).unwrap();
        assert_eq!(form.as_slice(), hex(&expected.split_whitespace().collect::<String>()), "{name}");
        assert_eq!(canonical(&form, Caps::JOB).unwrap(), form, "{name}");
    }
}

#[test]
fn ed25519_is_that_of_wycheproof() {
    let mut counts = [0, 0];
    for (group, test) in wycheproof("ed25519") {
        let public = hex_array(text(&group["publicKey"], "pk"));
        let message = hex(text(&test, "msg"));
        // A signature of another length is refused where it is read.
        let signature: Option<[u8; 64]> = base64url::decode_array(&base64url::encode(&hex(text(&test, "sig"))));
        let good = signature.is_some_and(|signature| verify(&public, &message, &signature));
        assert_eq!(good, text(&test, "result") == "valid", "{test}");
        counts[usize::from(good)] += 1;
    }
    assert_eq!(counts, [63, 88]);
}

#[test]
fn ed25519_is_that_of_the_rfc() {
    // RFC 8032, section 7.1. The message of TEST 1024 stands in a test of Wycheproof with the same key.
    let long = wycheproof("ed25519")
        .into_iter()
        .map(|(_, test)| text(&test, "msg").to_owned())
        .find(|message| message.starts_with("08b8b2b733424243") && message.len() == 2 * 1023)
        .unwrap();
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f05\
             95bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb\
             4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e97\
             16ed28dc027beceea1ec40a",
        ),
        (
            "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
            "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
            &long,
            "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b5e8fcd4f6\
             81e30a6ac00a9704a188a03",
        ),
        (
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d44236\
             43ce80e2a9ac94fa54ca49f",
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c1\
             38ac17ad9bef1177331a704",
        ),
    ] {
        let key = SigningKey::from_seed(&hex_array(seed)).unwrap();
        assert_eq!(key.public(), &hex_array::<32>(public));
        let message = hex(message);
        assert_eq!(key.sign_bytes(&message), hex_array(signature));
        assert!(verify(key.public(), &message, &hex_array(signature)));
    }
}

#[test]
fn x25519_is_that_of_wycheproof() {
    let mut refused = 0;
    for (_, test) in wycheproof("x25519") {
        let secret = StaticSecret::from(hex_array::<32>(text(&test, "private")));
        let shared = agree(&secret, hex_array(text(&test, "public")));
        let zero = test["flags"].as_array().unwrap().iter().any(|flag| flag == "ZeroSharedSecret");
        assert_eq!(shared.is_none(), zero, "{test}");
        match shared {
            Some(shared) => assert_eq!(shared.as_bytes(), &hex_array::<32>(text(&test, "shared")), "{test}"),
            None => refused += 1,
        }
    }
    assert_eq!(refused, 31);
}

#[test]
fn x25519_keys_are_read_as_wycheproof_writes_them() {
    let mut counts = [0, 0, 0];
    for (_, test) in wycheproof("x25519_jwk") {
        let secret = StaticSecret::from(base64url::decode_array::<32>(text(&test["private"], "d")).unwrap());
        // The same reader as for the `epk` of a header, which has no `kid`.
        let mut public = test["public"].clone();
        public.as_object_mut().unwrap().remove("kid");
        let Ok(public) = super::envelope::read_epk(&public.to_string()) else {
            assert_eq!(text(&test, "result"), "invalid", "{test}");
            counts[0] += 1;
            continue;
        };
        match agree(&secret, public) {
            Some(shared) => {
                assert_ne!(text(&test, "result"), "invalid", "{test}");
                assert_eq!(shared.as_bytes(), &hex_array::<32>(text(&test, "shared")), "{test}");
                counts[2] += 1;
            }
            None => counts[1] += 1,
        }
    }
    assert_eq!(counts, [13, 31, 531 - 13 - 31]);
}

#[test]
fn x25519_is_that_of_the_rfc() {
    // RFC 8037, appendix A.6, with the keys of RFC 7748, section 6.1: Bob's is the node's.
    let bob = hex_array("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let key = PayloadKey::from_bytes(&bob);
    assert_eq!(base64url::encode(key.public()), "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08");
    let ephemeral = base64url::decode_array("hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo").unwrap();
    let shared = agree(&StaticSecret::from(bob), ephemeral).unwrap();
    assert_eq!(shared.as_bytes(), &hex_array("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"));
}

#[test]
fn aes_gcm_is_that_of_wycheproof() {
    let mut counts = [0, 0, 0];
    for (group, test) in wycheproof("aes_gcm") {
        let sizes = (group["keySize"].as_u64(), group["ivSize"].as_u64(), group["tagSize"].as_u64());
        if sizes != (Some(256), Some(96), Some(128)) {
            counts[2] += 1;
            continue;
        }
        let mut sealed = Zeroizing::new(hex(text(&test, "ct")));
        sealed.extend(hex(text(&test, "tag")));
        let key = hex_array(text(&test, "key"));
        let opened = open(&key, hex_array(text(&test, "iv")), &hex(text(&test, "aad")), &mut sealed).is_ok();
        assert_eq!(opened, text(&test, "result") == "valid", "{test}");
        if opened {
            assert_eq!(sealed.as_slice(), hex(text(&test, "msg")));
        }
        counts[usize::from(opened)] += 1;
    }
    assert_eq!(counts.iter().sum::<i32>(), 316);
    assert!(counts[0] > 20 && counts[1] > 30, "{counts:?}");
}

#[test]
fn names_and_signatures_are_those_of_the_rfc() {
    // RFC 8037, appendices A.1 to A.4.
    let seed = base64url::decode_array("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let key = SigningKey::from_seed(&seed).unwrap();
    assert_eq!(base64url::encode(key.public()), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(key.kid(), KeyId::parse("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k").unwrap());
    let jws = key.sign_compact_as(r#"{"alg":"EdDSA"}"#, "Example of Ed25519 signing");
    assert_eq!(
        jws,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
         hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}
