//! Packs the long texts that the program carries: each byte of the file is one of an idle agent's memory. And tells it what it is
//! built for.

#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    // In the order of src/texts.rs, which the test there holds it to. The settings go before the agent, as they do in k3s's directory.
    let texts: [&[&str]; 7] = [
        &["k3s/crds.yaml"],
        &["k3s/settings.yaml", "k3s/agent.yaml"],
        &["k3s/rbac.yaml"],
        &["k3s/cluster.yaml"],
        &["src/trust/policy/admission.yaml"],
        &["src/trust/policy/admission-kinds.yaml"],
        &["systemd/pullet.service"],
    ];
    let read = |file: &&str| {
        println!("cargo::rerun-if-changed={file}");
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    // Packed as one, since each says much of what another says.
    let all = texts.map(|files| files.iter().map(read).collect::<String>()).join("\0");
    let hard = lz4::block::CompressionMode::HIGHCOMPRESSION(12);
    let packed = lz4::block::compress(all.as_bytes(), Some(hard), true).expect("a text can be packed");
    fs::write(Path::new(&out).join("texts"), packed).expect("the directory can be written");
    println!("cargo::rerun-if-changed=cross/pack.rs");
    println!("cargo::rustc-env=PULLET_TARGET={}", env::var("TARGET").expect("cargo says for what"));
}
