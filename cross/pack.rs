//! Packs the long texts that the program carries: each byte of the file is one of an idle agent's memory. And tells it what it is
//! built for.

#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    for text in ["k3s/crds.yaml", "k3s/agent.yaml", "systemd/pullet.service"] {
        println!("cargo::rerun-if-changed={text}");
        let bytes = fs::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let name = Path::new(text).file_name().expect("it is a file");
        let packed = lz4_flex::block::compress_prepend_size(&bytes);
        fs::write(Path::new(&out).join(name), packed).expect("the directory can be written");
    }
    println!("cargo::rerun-if-changed=cross/pack.rs");
    println!("cargo::rustc-env=PULLET_TARGET={}", env::var("TARGET").expect("cargo says for what"));
}
