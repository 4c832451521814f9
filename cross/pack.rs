//! Packs the long texts that the program carries: each byte of the file is one of an idle agent's memory. And tells it what it is
//! built for.

#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    // The settings go before the agent, as they do in k3s's directory.
    let texts: [(&str, &[&str]); 3] = [
        ("crds.yaml", &["k3s/crds.yaml"]),
        ("agent.yaml", &["k3s/settings.yaml", "k3s/agent.yaml"]),
        ("pullet.service", &["systemd/pullet.service"]),
    ];
    for (name, files) in texts {
        let mut bytes = Vec::new();
        for file in files {
            println!("cargo::rerun-if-changed={file}");
            bytes.extend(fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}")));
        }
        let packed = lz4_flex::block::compress_prepend_size(&bytes);
        fs::write(Path::new(&out).join(name), packed).expect("the directory can be written");
    }
    println!("cargo::rerun-if-changed=cross/pack.rs");
    println!("cargo::rustc-env=PULLET_TARGET={}", env::var("TARGET").expect("cargo says for what"));
}
